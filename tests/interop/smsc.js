// node smpp as the SMSC: takes binds and submits, sends receipts and mobile-originated messages.
// Its responses give ids in upper-case hexadecimal, its receipts in decimal, as several vendors' SMSCs do.
// usage: node smsc.js PORT; SIGTERM ends it, with what it saw, and with 1 if that was wrong.
const smpp = require("smpp");

// Some ids look decimal and some do not (19999999, then 1999999A), which is what makes this form hard to tell.
let id = 0x19999998;
let submits = 0;
let receipts = 0;
let inbound = 0;
let unanswered = 0;
const trouble = [];
// What mobiles send, and to whom; node smpp sends UCS-2 where a text needs it.
const mobileOriginated = [["22556", "хабари 🙂"], ["22555", "NEWS plain"], ["22555", "NEWS хабари 🙂"]];

function receipt(number) {
  const now = new Date().toISOString().replace(/\D/g, "").slice(2, 12);
  return `id:${number} sub:001 dlvrd:001 submit date:${now} done date:${now} stat:DELIVRD err:000 text:`;
}

const server = smpp.createServer((session) => {
  const deliver = (what, options, then) => {
    unanswered += 1;
    session.deliver_sm(options, (answer) => {
      unanswered -= 1;
      if (answer.command !== "deliver_sm_resp" || answer.command_status !== 0) {
        trouble.push(`${what}: ${answer.command} ${answer.command_status}`);
      }
      then();
    });
  };
  session.on("error", (error) => trouble.push(String(error)));
  for (const bind of ["bind_transceiver", "bind_transmitter", "bind_receiver"]) {
    session.on(bind, (pdu) => {
      const known = pdu.system_id === "gateway" && pdu.password === "secret";
      if (!known) trouble.push(`${bind} as ${pdu.system_id}`);
      session.send(pdu.response(known ? { system_id: "node", sc_interface_version: 0x34 } : { command_status: smpp.ESME_RBINDFAIL }));
    });
  }
  session.on("enquire_link", (pdu) => session.send(pdu.response()));
  session.on("unbind", (pdu) => { session.send(pdu.response()); session.close(); });
  session.on("submit_sm", (pdu) => {
    const number = id;
    id += 1;
    submits += 1;
    const first = submits === 1;
    session.send(pdu.response({ message_id: number.toString(16).toUpperCase() }));
    deliver("receipt", {
      source_addr_ton: pdu.dest_addr_ton,
      source_addr_npi: pdu.dest_addr_npi,
      source_addr: pdu.destination_addr,
      destination_addr: pdu.source_addr,
      dest_addr_ton: pdu.source_addr_ton,
      dest_addr_npi: pdu.source_addr_npi,
      esm_class: smpp.ESM_CLASS.MC_DELIVERY_RECEIPT,
      short_message: receipt(number),
    }, () => { receipts += 1; });
    if (first) mobileOriginated.forEach(([address, text]) => deliver(`inbound "${text}"`, {
      source_addr_ton: 1,
      source_addr_npi: 1,
      source_addr: "255712000099",
      destination_addr: address,
      short_message: text,
    }, () => { inbound += 1; }));
  });
});
server.on("error", (error) => { console.error(String(error)); process.exit(1); });
server.listen(Number(process.argv[2]), "127.0.0.1");

process.on("SIGTERM", () => {
  // The gateway answers when it has written down; a moment for what is under way.
  const end = Date.now() + 10_000;
  const look = setInterval(() => {
    if (unanswered > 0 && Date.now() < end) return;
    clearInterval(look);
    if (unanswered > 0) trouble.push(`${unanswered} deliver_sm unanswered`);
    console.log(`  node smpp took ${submits} submits; ${receipts} receipts and ${inbound} inbound messages were answered`);
    trouble.forEach((line) => console.error(line));
    process.exit(trouble.length === 0 && submits === 15 && receipts === 15 && inbound === mobileOriginated.length ? 0 : 1);
  }, 50);
});
