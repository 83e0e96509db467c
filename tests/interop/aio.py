"""Python aiosmpplib against the gateway: binds, submits, and finds its messages by what the receipts say.

usage: aio.py PORT ACCOUNT. No wrong password here: aiosmpplib cannot parse a refused bind response without a body.
"""

import asyncio
import sys

from aiosmpplib import ESME, NPI, TON, AbstractHook, DeliverSm, PhoneNumber, SubmitSm, SubmitSmResp

port, account = int(sys.argv[1]), sys.argv[2]
texts = {"254712000021": "plain, and €", "254712000022": "Unicode: мир 世界 🙂"}
answers, receipts, trouble = {}, {}, []
complete = asyncio.Event()


class Hook(AbstractHook):
    async def sending(self, smpp_message, pdu, client_id):
        pass

    async def send_error(self, smpp_message, error, client_id):
        trouble.append(f"not sent: {error!r}")
        complete.set()

    async def received(self, smpp_message, pdu, client_id):
        if smpp_message is None:
            # Whatever it cannot parse comes without a message.
            trouble.append(f"not understood: {pdu.hex()}")
            complete.set()
        elif isinstance(smpp_message, DeliverSm):
            # The library looks the id up among those of the responses, as its users would: log_id is then the number.
            receipt = smpp_message.parse_receipt()
            receipts[smpp_message.log_id] = (
                smpp_message.is_receipt(),
                receipt["id"],
                receipt["stat"],
                receipt["err"],
                smpp_message.source.number,
            )
        elif isinstance(smpp_message, SubmitSmResp):
            answers[smpp_message.log_id] = (smpp_message.command_status.name, smpp_message.message_id)
        if len(receipts) == len(answers) == len(texts):
            complete.set()


async def main():
    esme = ESME("127.0.0.1", port, account, "secret1", hook=Hook(), log_level="CRITICAL")
    running = asyncio.create_task(esme.start())
    for number, text in texts.items():
        await esme.broker.enqueue(
            SubmitSm(
                short_message=text,
                source=PhoneNumber("ACME", TON.ALPHANUMERIC, NPI.UNKNOWN),
                destination=PhoneNumber(number, TON.INTERNATIONAL, NPI.ISDN),
                registered_delivery=1,
                log_id=number,
            )
        )
    try:
        await asyncio.wait_for(complete.wait(), 30)
    except asyncio.TimeoutError:
        trouble.append("not within 30 s")
    # It unbinds, and its own loop ends when the connection does.
    await asyncio.wait_for(esme.stop(), 10)
    running.cancel()
    assert not trouble, (trouble, answers, receipts)
    assert {n: a[0] for n, a in answers.items()} == dict.fromkeys(texts, "ESME_ROK"), answers
    wanted = {n: (True, answers[n][1], "DELIVRD", 0, n) for n in texts}
    assert receipts == wanted, (receipts, wanted)
    print(f"  {len(answers)} messages, {len(receipts)} receipts")


asyncio.run(main())
