"""Python smpplib fetches inbound messages that wait for an account: exactly these texts, each once, in whatever order.

usage: inbound.py PORT ACCOUNT TEXT…
"""

import logging
import sys

import smpplib.client
import smpplib.consts

port, account, texts = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
logging.disable(logging.CRITICAL)
inbound = []


def on_received(pdu):
    assert pdu.esm_class & 0x3C == 0, pdu.esm_class
    ucs2 = pdu.data_coding == smpplib.consts.SMPP_ENCODING_ISO10646
    inbound.append(pdu.short_message.decode("utf-16-be" if ucs2 else "ascii"))
    return 0


# They are in the store already: what has not come after a few seconds does not come, and what comes twice comes soon.
client = smpplib.client.Client("127.0.0.1", port, timeout=3, allow_unknown_opt_params=True)
client.connect()
client.set_message_received_handler(on_received)
client.bind_receiver(system_id=account, password="secret1")
try:
    while True:
        client.read_once(auto_send_enquire_link=False)
except TimeoutError:
    pass
client.unbind()
client.disconnect()
if sorted(inbound) != sorted(texts):
    sys.exit(f"  wanted {texts}, got {inbound}")
print(f"  {len(inbound)} inbound messages")
