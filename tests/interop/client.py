"""Python smpplib against the gateway: binds, submits of several kinds, the right receipts.

usage: client.py PORT ACCOUNT [CERTIFICATE]; with a certificate, all of it over TLS, and only with a server that has it.
"""

import logging
import re
import ssl
import sys

import smpplib.client
import smpplib.consts
import smpplib.exceptions
import smpplib.gsm

port, account = int(sys.argv[1]), sys.argv[2]
certificate = sys.argv[3] if len(sys.argv) > 3 else None
logging.disable(logging.CRITICAL)


class NamedContext(ssl.SSLContext):
    """smpplib wraps its socket without a server name, and without one no name is checked."""

    def wrap_socket(self, sock, **options):
        return super().wrap_socket(sock, server_hostname="localhost", **options)


context = None
if certificate:
    context = NamedContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(certificate)


def connect():
    client = smpplib.client.Client(
        "127.0.0.1", port, timeout=20, allow_unknown_opt_params=True, ssl_context=context
    )
    client.connect()
    return client


# A wrong password is refused with ESME_RBINDFAIL.
client = connect()
try:
    client.bind_transceiver(system_id=account, password="wrong")
    sys.exit("a wrong password was let in")
except smpplib.exceptions.PDUError as error:
    assert error.args[1] == smpplib.consts.SMPP_ESME_RBINDFAIL, error.args

# One session for both directions, and a pair.
sender = connect()
sender.bind_transmitter(system_id=account, password="secret1")
receiver = connect()
receiver.bind_receiver(system_id=account, password="secret1")
both = connect()
both.bind_transceiver(system_id=account, password="secret1")

sent = {}
receipts = {}
answered = {}


def on_sent(pdu):
    answered[pdu.sequence] = (pdu.status, pdu.message_id)


def on_received(pdu):
    text = pdu.short_message.decode("latin-1")
    found = re.search(r"id:(\S+) sub:\d{3} dlvrd:\d{3} submit date:\d{10} done date:\d{10} stat:(\w{7}) err:(\d{3})", text)
    assert found, text
    assert pdu.receipted_message_id.decode().rstrip("\0") == found.group(1), pdu.receipted_message_id
    assert pdu.message_state == 2, pdu.message_state
    receipts[found.group(1)] = (found.group(2), pdu.source_addr.decode())
    return 0


for client in (sender, receiver, both):
    client.set_message_sent_handler(on_sent)
    client.set_message_received_handler(on_received)


def submit(client, text, number):
    parts, coding, esm_class = smpplib.gsm.make_parts(text)
    for part in parts:
        pdu = client.send_message(
            source_addr_ton=smpplib.consts.SMPP_TON_ALNUM,
            source_addr="ACME",
            dest_addr_ton=smpplib.consts.SMPP_TON_INTL,
            dest_addr_npi=smpplib.consts.SMPP_NPI_ISDN,
            destination_addr=number,
            short_message=part,
            data_coding=coding,
            esm_class=esm_class,
            registered_delivery=True,
        )
        sent[pdu.sequence] = number
        # Sequence numbers are per session, and so are these scripts' answers: read each before the next.
        while pdu.sequence not in answered:
            client.read_once()
        status, message_id = answered.pop(pdu.sequence)
        assert status == 0, status
        wanted[message_id.decode()] = number


wanted = {}
submit(sender, "plain", "254712000001")
submit(both, "Unicode: мир 世界 🙂", "254712000002")
submit(sender, "long " * 80, "254712000003")
submit(both, "€ and { } use the extension table", "254712000004")
assert len(wanted) == 1 + 1 + 3 + 1, wanted

# Receipts come on any session that receives.
receiver._socket.settimeout(0.2)
both._socket.settimeout(0.2)
for _ in range(200):
    if len(receipts) == len(wanted):
        break
    for client in (receiver, both):
        try:
            client.read_once()
        except TimeoutError:
            pass
        except smpplib.exceptions.ConnectionError as error:
            if "timed out" not in str(error):
                raise
assert receipts == {i: ("DELIVRD", n) for i, n in wanted.items()}, (receipts, wanted)

how = f" over {both._socket.version()}" if certificate else ""
for client in (sender, receiver, both):
    client._socket.settimeout(20)
    client.unbind()
    client.disconnect()
print(f"  {len(wanted)} messages, {len(receipts)} receipts{how}")
