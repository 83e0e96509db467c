// node smpp against the gateway: binds, submits of several kinds, the right receipts, and the operations on messages.
// usage: node client.js PORT ACCOUNT
const smpp = require("smpp");
const assert = require("assert");

const port = Number(process.argv[2]);
const account = process.argv[3];
const timer = setTimeout(() => { console.error("not within 60 s"); process.exit(1); }, 60_000);

function connect() {
  return new Promise((resolve, reject) => {
    const session = smpp.connect({ url: `smpp://127.0.0.1:${port}`, auto_enquire_link_period: 5000 }, () => resolve(session));
    session.on("error", reject);
  });
}

function ask(session, method, options) {
  return new Promise((resolve) => session[method](options, resolve));
}

async function main() {
  const stranger = await connect();
  const refused = await ask(stranger, "bind_transceiver", { system_id: account, password: "wrong" });
  assert.strictEqual(refused.command_status, smpp.ESME_RBINDFAIL);

  const session = await connect();
  const bound = await ask(session, "bind_transceiver", { system_id: account, password: "secret1", interface_version: 0x34 });
  assert.strictEqual(bound.command_status, 0);
  assert.strictEqual(bound.sc_interface_version, 0x34);

  // Every receipt as "id state number": the messages of a submit_multi share their id.
  const receipts = [];
  const wanted = [];
  let look = () => {};
  session.on("deliver_sm", (pdu) => {
    const text = pdu.short_message.message;
    const found = /^id:(\S+) sub:\d{3} dlvrd:\d{3} submit date:\d{10} done date:\d{10} stat:(\w{7}) err:\d{3} text:/.exec(text);
    assert.ok(found, text);
    assert.strictEqual(pdu.esm_class & 0x3c, 0x04);
    assert.strictEqual(pdu.receipted_message_id, found[1]);
    assert.strictEqual(pdu.message_state, 2);
    receipts.push(`${found[1]} ${found[2]} ${pdu.source_addr}`);
    session.send(pdu.response());
    look();
  });
  const allReceipts = () => new Promise((resolve) => {
    look = () => { if (receipts.length >= wanted.length) resolve(); };
    look();
  });

  const base = { source_addr_ton: 5, source_addr: "ACME", dest_addr_ton: 1, dest_addr_npi: 1, registered_delivery: 1 };
  const kinds = [
    ["254712000011", { short_message: "plain" }],
    ["254712000012", { short_message: "Unicode: мир 世界 🙂" }],
    ["254712000013", { message_payload: "x".repeat(400) }],
    ["254712000014", { short_message: "€ and { }" }],
    ["0712000015", { short_message: "a national number", dest_addr_ton: 0, dest_addr_npi: 0 }],
  ];
  const answers = await Promise.all(kinds.map(([number, extra]) =>
    ask(session, "submit_sm", { ...base, destination_addr: number, ...extra })));
  const ids = new Set();
  answers.forEach((answer, n) => {
    assert.strictEqual(answer.command_status, 0, kinds[n][0]);
    ids.add(answer.message_id);
    wanted.push(`${answer.message_id} DELIVRD ${kinds[n][0].replace(/^0/, "254")}`);
  });
  assert.strictEqual(ids.size, 5);

  // data_sm carries its text in message_payload.
  const data = await ask(session, "data_sm", { ...base, destination_addr: "254712000016", message_payload: "data" });
  assert.strictEqual(data.command_status, 0);
  assert.ok(data.message_id);
  wanted.push(`${data.message_id} DELIVRD 254712000016`);

  // submit_multi: one id for all its numbers, a receipt from each.
  const numbers = ["254712000017", "254712000018"];
  const multi = await ask(session, "submit_multi", {
    ...base,
    dest_address: numbers.map((n) => ({ dest_addr_ton: 1, dest_addr_npi: 1, destination_addr: n })),
    short_message: "to two",
  });
  assert.strictEqual(multi.command_status, 0);
  assert.ok(multi.message_id);
  assert.deepStrictEqual(multi.unsuccess_sme, []);
  numbers.forEach((n) => wanted.push(`${multi.message_id} DELIVRD ${n}`));

  const bad = await ask(session, "submit_sm", { ...base, destination_addr: "nonsense", short_message: "x" });
  assert.strictEqual(bad.command_status, smpp.ESME_RINVDSTADR);

  await allReceipts();
  assert.deepStrictEqual(receipts.slice().sort(), wanted.slice().sort());

  // What is delivered can be looked up and no longer be cancelled; what never was cannot be found.
  const about = { source_addr_ton: 5, source_addr: "ACME" };
  const delivered = answers[0].message_id;
  for (const id of [delivered, data.message_id, multi.message_id]) {
    const query = await ask(session, "query_sm", { ...about, message_id: id });
    assert.strictEqual(query.command_status, 0);
    assert.strictEqual(query.message_id, id);
    assert.strictEqual(query.message_state, 2);
    assert.strictEqual(query.error_code, 0);
    // node smpp has made a Date of it; this run began less than ten minutes ago.
    assert.ok(Math.abs(Date.now() - query.final_date) < 600_000, String(query.final_date));
  }
  const unknown = await ask(session, "query_sm", { ...about, message_id: "99999999" });
  assert.strictEqual(unknown.command_status, smpp.ESME_RINVMSGID);
  const cancel = await ask(session, "cancel_sm", { ...about, message_id: delivered });
  assert.strictEqual(cancel.command_status, smpp.ESME_RCANCELFAIL);

  // The session has survived all refusals, and nothing came twice.
  const alive = await ask(session, "enquire_link", {});
  assert.strictEqual(alive.command_status, 0);
  assert.strictEqual(receipts.length, wanted.length);
  await ask(session, "unbind", {});
  session.close();
  stranger.close();
  console.log(`  ${wanted.length} messages (one submit_multi to two, one data_sm), ${receipts.length} receipts; ` +
    "query_sm finds, cancel_sm comes too late");
  clearTimeout(timer);
  process.exit(0);
}

main().catch((error) => { console.error(error); process.exit(1); });
