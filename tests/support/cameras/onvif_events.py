"""A camera's event service by ONVIF, on the loopback: pull-points with long polls."""

from __future__ import annotations

import threading
import time
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.support.onvif_camera import Service

_SPACES = (
    'xmlns:tev="http://www.onvif.org/ver10/events/wsdl" '
    'xmlns:wsa="http://www.w3.org/2005/08/addressing" '
    'xmlns:wsnt="http://docs.oasis-open.org/wsn/b-2" '
    'xmlns:tns1="http://www.onvif.org/ver10/topics"'
)
_UNKNOWN = (
    '<s:Fault xmlns:rw="http://docs.oasis-open.org/wsrf/rw-2"><s:Code><s:Value>s:Sender</s:Value>'
    "<s:Subcode><s:Value>rw:ResourceUnknownFault</s:Value></s:Subcode></s:Code><s:Reason><s:Text>"
    "no such subscription</s:Text></s:Reason></s:Fault>"
)
_TIMES = (
    "<{0}:CurrentTime>2026-01-01T00:00:00Z</{0}:CurrentTime>"
    "<{0}:TerminationTime>2026-01-01T00:01:00Z</{0}:TerminationTime>"
)
_POLL_S = 0.5


def notification(topic: str, data: dict[str, str], operation: str = "Changed") -> str:
    """Return a message of the camera's only video source."""
    items = "".join(f'<tt:SimpleItem Name="{n}" Value="{v}"/>' for n, v in data.items())
    return (
        f"<wsnt:NotificationMessage><wsnt:Topic>{topic}</wsnt:Topic><wsnt:Message>"
        f'<tt:Message UtcTime="2026-01-01T00:00:00Z" PropertyOperation="{operation}"><tt:Source>'
        '<tt:SimpleItem Name="VideoSourceConfigurationToken" Value="v0"/></tt:Source>'
        f"<tt:Data>{items}</tt:Data></tt:Message></wsnt:Message></wsnt:NotificationMessage>"
    )


class EventService(ThreadingHTTPServer):
    """The services of a camera with this login, which reports what `send` is given.

    A subscription begins with the states that are on, ends `lasts_s` after it was made or renewed,
    and all end with `forget`, as when the camera starts again. A request must be stamped by the
    clock of the camera, which is `skew_s` ahead of this host's.
    """

    daemon_threads = True

    def __init__(
        self,
        user: str,
        password: str,
        poll_s: float = _POLL_S,
        *,
        lasts_s: float = 60.0,
        skew_s: float = 0.0,
    ) -> None:
        login = {"address": "127.0.0.1", "user": user, "password": password, "skew_s": skew_s}
        super().__init__(("127.0.0.1", 0), type("Answers", (_Answers,), login))
        self.poll_s = poll_s
        self.lasts_s = lasts_s
        self.n_polls = 0
        self.n_subscribed = 0
        self.n_renewed = 0
        self.changed = threading.Condition()
        self.has_subscriber = threading.Event()
        self.subscriptions: dict[int, _Subscription] = {}
        self._states: dict[tuple[str, str], str] = {}
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/onvif/device_service"

    def send(self, topic: str, data: dict[str, str], operation: str = "Changed") -> None:
        with self.changed:
            for name, value in data.items():
                if value in ("true", "false"):
                    self._states[topic, name] = value
            for subscription in self.subscriptions.values():
                subscription.waiting.append(notification(topic, data, operation))
            self.changed.notify_all()

    def subscribe(self) -> int:
        with self.changed:
            self.n_subscribed += 1
            number = self.n_subscribed
            subscription = self.subscriptions[number] = _Subscription(self.lasts_s)
            for (topic, name), value in self._states.items():
                subscription.waiting.append(notification(topic, {name: value}, "Initialized"))
        self.has_subscriber.set()
        return number

    def forget(self) -> None:
        """End all subscriptions without a word to the subscribers."""
        with self.changed:
            self.subscriptions.clear()
            self.changed.notify_all()

    def find(self, number: int) -> _Subscription | None:
        """Return a subscription that has not ended."""
        subscription = self.subscriptions.get(number)
        if subscription is None or time.monotonic() > subscription.ends:
            return None
        return subscription

    def close(self) -> None:
        self.shutdown()
        self.server_close()


class _Subscription:
    def __init__(self, lasts_s: float) -> None:
        self.waiting: deque[str] = deque()
        self.ends = time.monotonic() + lasts_s


class RefusingService(ThreadingHTTPServer):
    """A service that answers each request with 401 and this challenge; "": without one.

    logins  the Authorization of each request; None: it had none
    """

    daemon_threads = True

    def __init__(self, challenge: str) -> None:
        super().__init__(("127.0.0.1", 0), _Refuses)
        self.challenge = challenge
        self.logins: list[str | None] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/onvif/device_service"

    def close(self) -> None:
        self.shutdown()
        self.server_close()


class _Refuses(BaseHTTPRequestHandler):
    server: RefusingService

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.logins.append(self.headers.get("Authorization"))
        self.send_response(401)
        if self.server.challenge:
            self.send_header("WWW-Authenticate", self.server.challenge)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class _Answers(Service):
    server: EventService

    def said(self, asked: str, text: str) -> str:
        here = self.server.url
        if asked == "GetServices":
            return (
                "<tds:GetServicesResponse><tds:Service><tds:Namespace>http://www.onvif.org/ver10/"
                f"events/wsdl</tds:Namespace><tds:XAddr>{here}</tds:XAddr></tds:Service>"
                "</tds:GetServicesResponse>"
            )
        if not self.is_known(text):
            return super().said(asked, text)
        if asked == "CreatePullPointSubscription":
            number = self.server.subscribe()
            return (
                f"<tev:CreatePullPointSubscriptionResponse {_SPACES}><tev:SubscriptionReference>"
                f"<wsa:Address>{here}/{number}</wsa:Address></tev:SubscriptionReference>"
                f"{_TIMES.format('wsnt')}</tev:CreatePullPointSubscriptionResponse>"
            )
        if asked in ("PullMessages", "Unsubscribe", "Renew"):
            return self._of_subscription(asked, int(self.path.rpartition("/")[2]))
        return super().said(asked, text)

    def _of_subscription(self, asked: str, number: int) -> str:
        server = self.server
        messages = ""
        with server.changed:
            subscription = server.find(number)
            if subscription is None:
                return _UNKNOWN
            if asked == "Unsubscribe":
                del server.subscriptions[number]
            elif asked == "Renew":
                server.n_renewed += 1
                subscription.ends = time.monotonic() + server.lasts_s
            else:
                server.n_polls += 1
                server.changed.wait_for(
                    lambda: subscription.waiting or server.find(number) is None, server.poll_s
                )
                while subscription.waiting:
                    messages += subscription.waiting.popleft()
        if asked == "PullMessages":
            return (
                f"<tev:PullMessagesResponse {_SPACES}>{_TIMES.format('tev')}{messages}"
                "</tev:PullMessagesResponse>"
            )
        return f"<wsnt:{asked}Response {_SPACES}>{_TIMES.format('wsnt')}</wsnt:{asked}Response>"
