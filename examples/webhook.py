"""Results to a URL by signed POST: a user's stage. Needs httpx (the extra `bridge`).

    [stages.webhook]
    use = "webhook:Webhook"
    input = "cache"
    on_lag = "drop"
    url_env = "WEBHOOK_URL"
    secret_env = "WEBHOOK_SECRET"

A result is the body, as --json prints it. Its position is stored once the receiver has answered
2xx: at least once, also across a kill of this worker; `Idempotency-Key` (source/epoch-seq) tells
what came twice. `Framegate-Signature: t=SECONDS,v1=HEX` is the HMAC-SHA256 of "SECONDS." and the
body: refuse old times. An answer of 408, 425, 429 or 5xx, or none, is tried again with growing
pauses; any other refuses the result. A receiver that is away holds nothing up: `keep` results wait
in memory, older ones are dropped and counted, and these are all that a kill can lose.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import httpx
import msgspec
from outbox import Message, Outbox

from framegate import Context, Item, Stage, from_environment

AGAIN = (408, 425, 429)
GOODBYE_S = 1.0


@dataclass(frozen=True)
class WebhookOptions:
    """url_env, secret_env: names of variables that hold the URL and the key of the signature.

    keep        results that wait while the receiver is away
    patience_s  longest wait for an answer while it is there; below workers.hung_s
    """

    url_env: str
    secret_env: str
    keep: int = field(default=1000, metadata={"least": 1, "most": 1_000_000})
    patience_s: float = field(default=5.0, metadata={"least": 0.1, "most": 10.0})


class Delivered(msgspec.Struct, frozen=True):
    """Results that were dropped or refused, since the beginning."""

    dropped: int = 0


class Webhook(Stage[Delivered]):
    """One result in, one POST out; it says {dropped} when results were dropped or refused."""

    Options = WebhookOptions
    State = Delivered
    takes_failed = True
    options: WebhookOptions

    def __init__(self, options: WebhookOptions, context: Context) -> None:
        super().__init__(options, context)
        self._url = from_environment(options.url_env, "url_env")
        self._secret = from_environment(options.secret_env, "secret_env").encode()
        logging.getLogger("httpx").setLevel(logging.WARNING)  # a line a request is too much
        self._outbox = Outbox(self._session, (httpx.HTTPError,), options.keep)

    def process(
        self, batch: Sequence[Item], states: Mapping[str, Delivered]
    ) -> tuple[list[dict[str, int] | None], dict[str, Delivered]]:
        """Hand the results on; wait for the answers, but not for a receiver that is away."""
        self._outbox.put(self._message(item) for item in batch)
        self._outbox.wait(self.options.patience_s)
        after, said = dict(states), []
        for item in batch:
            dropped = self._outbox.dropped(item.source)
            after[item.source] = Delivered(after[item.source].dropped + dropped)
            said.append({"dropped": dropped} if dropped else None)
        return said, after

    def close(self) -> None:
        """Deliver what is left, if that is quick."""
        self._outbox.close(GOODBYE_S)

    def _message(self, item: Item) -> Message:
        result = item.output_of(self.context.before, dict)
        key = f"{item.source}/{item.position}"
        return Message(item.source, key, msgspec.json.encode(result))

    async def _session(self, outbox: Outbox) -> None:
        """Post one result after the other, until one must be tried again."""
        async with httpx.AsyncClient(timeout=self.options.patience_s) as client:
            while True:
                message = await outbox.first()
                answer = await client.post(
                    self._url, content=message.body, headers=self._headers(message)
                )
                if answer.is_success:
                    outbox.sent(message)
                elif answer.status_code in AGAIN or answer.is_server_error:
                    raise httpx.HTTPError(f"it answers {answer.status_code}")
                else:
                    outbox.refused(message, f"it answers {answer.status_code}")

    def _headers(self, message: Message) -> dict[str, str]:
        return {
            "Content-Type": "application/json",
            "Idempotency-Key": message.key,
            "Framegate-Signature": signature(self._secret, int(time.time()), message.body),
        }


def signature(secret: bytes, seconds: int, body: bytes) -> str:
    """What the receiver computes as well, and compares with hmac.compare_digest."""
    digest = hmac.new(secret, f"{seconds}.".encode() + body, hashlib.sha256)
    return f"t={seconds},v1={digest.hexdigest()}"
