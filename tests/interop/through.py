"""Python smpplib submits through the gateway to smsc.js: each message gets its own receipt, the inbound message arrives.

usage: through.py PORT ACCOUNT
"""

import logging
import re
import signal
import sys

import smpplib.client
import smpplib.consts

port, account = int(sys.argv[1]), sys.argv[2]
logging.disable(logging.CRITICAL)
wanted, receipts, inbound = {}, [], []


def give_up(*_):
    sys.exit(f"not within 30 s: {len(wanted)} of 15 responses, {len(receipts)} of 15 receipts, inbound {inbound}")


# The gateway's enquire_link keep the socket's own timeout from ever ending a wait that is in vain.
signal.signal(signal.SIGALRM, give_up)
signal.alarm(30)


def on_sent(pdu):
    assert pdu.status == 0, pdu.status
    wanted[pdu.message_id.decode()] = numbers[pdu.sequence]


def on_received(pdu):
    if pdu.esm_class & 0x3C == 0:
        assert pdu.data_coding == smpplib.consts.SMPP_ENCODING_ISO10646, pdu.data_coding
        text = pdu.short_message.decode("utf-16-be")
        inbound.append((pdu.source_addr.decode(), pdu.destination_addr.decode(), text))
        return 0
    assert pdu.esm_class & 0x3C == 0x04, pdu.esm_class
    found = re.search(r"id:(\S+) .* stat:(\w{7}) err:(\d{3})", pdu.short_message.decode("latin-1"))
    assert found, pdu.short_message
    receipts.append((found.group(1), found.group(2), pdu.source_addr.decode()))
    return 0


client = smpplib.client.Client("127.0.0.1", port, timeout=20, allow_unknown_opt_params=True)
client.connect()
client.set_message_sent_handler(on_sent)
client.set_message_received_handler(on_received)
client.bind_transceiver(system_id=account, password="secret1")
numbers = {}
for n in range(15):
    number = f"2557120000{n:02}"
    pdu = client.send_message(
        source_addr_ton=smpplib.consts.SMPP_TON_ALNUM,
        source_addr="ACME",
        dest_addr_ton=smpplib.consts.SMPP_TON_INTL,
        dest_addr_npi=smpplib.consts.SMPP_NPI_ISDN,
        destination_addr=number,
        short_message=b"through node smpp",
        registered_delivery=True,
    )
    numbers[pdu.sequence] = number
# Responses, receipts and the inbound message come in whatever order.
while not (len(wanted) == len(receipts) == 15 and inbound):
    client.read_once()
assert sorted(receipts) == sorted((i, "DELIVRD", n) for i, n in wanted.items()), (receipts, wanted)
assert inbound == [("255712000099", "22556", "хабари 🙂")], inbound
client.unbind()
client.disconnect()
print(f"  {len(wanted)} messages, {len(receipts)} receipts, {len(inbound)} inbound message")
