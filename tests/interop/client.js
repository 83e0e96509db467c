// node smpp against the gateway: binds, submits of several kinds, the right receipts.
const smpp = require("smpp");
const assert = require("assert");

const port = Number(process.argv[2]);
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
  const refused = await ask(stranger, "bind_transceiver", { system_id: "acme", password: "wrong" });
  assert.strictEqual(refused.command_status, smpp.ESME_RBINDFAIL);

  const session = await connect();
  const bound = await ask(session, "bind_transceiver", { system_id: "acme", password: "secret1", interface_version: 0x34 });
  assert.strictEqual(bound.command_status, 0);
  assert.strictEqual(bound.sc_interface_version, 0x34);

  const receipts = new Map();
  const wanted = new Map();
  let done;
  const all = new Promise((resolve) => { done = resolve; });
  session.on("deliver_sm", (pdu) => {
    const text = pdu.short_message.message;
    const found = /^id:(\S+) sub:\d{3} dlvrd:\d{3} submit date:\d{10} done date:\d{10} stat:(\w{7}) err:\d{3} text:/.exec(text);
    assert.ok(found, text);
    assert.strictEqual(pdu.esm_class & 0x3c, 0x04);
    assert.strictEqual(pdu.receipted_message_id, found[1]);
    receipts.set(found[1], [found[2], pdu.source_addr]);
    session.send(pdu.response());
    if (receipts.size === 5) done();
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
  answers.forEach((answer, n) => {
    assert.strictEqual(answer.command_status, 0, kinds[n][0]);
    wanted.set(answer.message_id, ["DELIVRD", kinds[n][0].replace(/^0/, "254")]);
  });
  assert.strictEqual(wanted.size, 5);

  // Operations that are not offered get an error, and the session stays up.
  const query = await ask(session, "query_sm", { message_id: [...wanted.keys()][0], source_addr: "ACME" });
  assert.notStrictEqual(query.command_status, 0);
  const bad = await ask(session, "submit_sm", { ...base, destination_addr: "nonsense", short_message: "x" });
  assert.strictEqual(bad.command_status, smpp.ESME_RINVDSTADR);

  await all;
  for (const [id, what] of wanted) assert.deepStrictEqual(receipts.get(id), what);
  const alive = await ask(session, "enquire_link", {});
  assert.strictEqual(alive.command_status, 0);
  await ask(session, "unbind", {});
  session.close();
  stranger.close();
  console.log(`  ${wanted.size} messages, ${receipts.size} receipts`);
  clearTimeout(timer);
  process.exit(0);
}

main().catch((error) => { console.error(error); process.exit(1); });
