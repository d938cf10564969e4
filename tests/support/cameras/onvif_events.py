"""A camera's event service by ONVIF, on the loopback: pull-points with long polls."""

from __future__ import annotations

import threading
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
    """The services of a camera with this login, which reports what `send` is given."""

    daemon_threads = True

    def __init__(self, user: str, password: str, poll_s: float = _POLL_S) -> None:
        login = {"address": "127.0.0.1", "user": user, "password": password}
        super().__init__(("127.0.0.1", 0), type("Answers", (_Answers,), login))
        self.waiting: deque[str] = deque()
        self.poll_s = poll_s
        self.n_polls = 0
        self.changed = threading.Condition()
        self.has_subscriber = threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/onvif/device_service"

    def send(self, message: str) -> None:
        with self.changed:
            self.waiting.append(message)
            self.changed.notify_all()

    def close(self) -> None:
        self.shutdown()
        self.server_close()


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
        if asked == "CreatePullPointSubscription" and self.is_known(text):
            self.server.has_subscriber.set()
            return (
                f"<tev:CreatePullPointSubscriptionResponse {_SPACES}><tev:SubscriptionReference>"
                f"<wsa:Address>{here}/sub</wsa:Address></tev:SubscriptionReference>"
                f"{_TIMES.format('wsnt')}</tev:CreatePullPointSubscriptionResponse>"
            )
        if asked == "PullMessages":
            messages = ""
            with self.server.changed:
                self.server.n_polls += 1
                self.server.changed.wait_for(lambda: self.server.waiting, self.server.poll_s)
                while self.server.waiting:
                    messages += self.server.waiting.popleft()
            return (
                f"<tev:PullMessagesResponse {_SPACES}>{_TIMES.format('tev')}{messages}"
                "</tev:PullMessagesResponse>"
            )
        if asked in ("Unsubscribe", "Renew"):
            return f"<wsnt:{asked}Response {_SPACES}>{_TIMES.format('wsnt')}</wsnt:{asked}Response>"
        return super().said(asked, text)
