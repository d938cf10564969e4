"""A camera that answers by ONVIF, in a network of its own: WS-Discovery, its streams, and RTSP.

`python -m tests.support.onvif_camera FOLDER USER PASSWORD COMMAND...` joins the multicast group at
ADDRESS, says its profiles to who knows the password (a digest; no other way), plays main.mkv and
sub.mkv of the folder by RTSP, and runs the command beside it; its exit code is that of the command.
Written from ONVIF's and OASIS's specifications: nothing of a client is used.
"""

from __future__ import annotations

import base64
import hashlib
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import closing
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.support.cameras.background import Background
from tests.support.cameras.toolkit import server
from tests.support.runs import DEADLINE_S

ADDRESS = "10.77.0.1"
GROUP, PORT = "239.255.255.250", 3702
MAX_OFF_S = 60.0  # between the stamp of a request and the clock of the camera
SOAP = "http://www.w3.org/2003/05/soap-envelope"
TOPICS = (
    '<tns1:RuleEngine><CellMotionDetector><Motion wstop:topic="true"/><People wstop:topic="true"/>'
    '</CellMotionDetector><LineDetector><Crossed wstop:topic="true"/></LineDetector>'
    '</tns1:RuleEngine><tns1:Device><HardwareFailure><StorageFailure wstop:topic="true"/>'
    "</HardwareFailure></tns1:Device>"
)
PROFILES = {"one": ("main.mkv", 1600, 1200), "two": ("sub.mkv", 640, 360)}


def envelope(head: str, body: str) -> bytes:
    return (
        f'<?xml version="1.0" encoding="UTF-8"?><s:Envelope xmlns:s="{SOAP}" '
        'xmlns:a="http://schemas.xmlsoap.org/ws/2004/08/addressing" '
        'xmlns:d="http://schemas.xmlsoap.org/ws/2005/04/discovery" '
        'xmlns:tds="http://www.onvif.org/ver10/device/wsdl" '
        'xmlns:trt="http://www.onvif.org/ver10/media/wsdl" '
        'xmlns:tt="http://www.onvif.org/ver10/schema" '
        'xmlns:dn="http://www.onvif.org/ver10/network/wsdl">'
        f"<s:Header>{head}</s:Header><s:Body>{body}</s:Body></s:Envelope>"
    ).encode()


def answer_probes(address: str, port: int, heard: threading.Event) -> None:
    """As a camera does: to who asks for its type, or for any."""
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("", PORT))
        joined = struct.pack("4s4s", socket.inet_aton(GROUP), socket.inet_aton(address))
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, joined)
        heard.set()
        while True:
            data, sender = sock.recvfrom(65535)
            probe = data.decode()
            types = re.search(r"Types>([^<]*)<", probe)
            asked = re.search(r"MessageID>([^<]*)<", probe)
            wanted = {word.rpartition(":")[2] for word in types[1].split()} if types else set()
            if "Probe" not in probe or not asked or wanted - {"NetworkVideoTransmitter"}:
                continue
            head = (
                f"<a:RelatesTo>{asked[1]}</a:RelatesTo><a:Action>http://schemas.xmlsoap.org/ws/"
                "2005/04/discovery/ProbeMatches</a:Action>"
            )
            body = (
                "<d:ProbeMatches><d:ProbeMatch><a:EndpointReference><a:Address>urn:uuid:"
                "5f5a69c2-e0ae-504f-829b-00fcda538169</a:Address></a:EndpointReference>"
                "<d:Types>dn:NetworkVideoTransmitter</d:Types><d:Scopes>"
                "onvif://www.onvif.org/name/Front%20Door onvif://www.onvif.org/hardware/X1"
                f"</d:Scopes><d:XAddrs>http://{address}:{port}/onvif/device_service</d:XAddrs>"
                "<d:MetadataVersion>1</d:MetadataVersion></d:ProbeMatch></d:ProbeMatches>"
            )
            sock.sendto(envelope(head, body), sender)


class Service(BaseHTTPRequestHandler):
    """The device and media services, of one path."""

    address = ADDRESS
    user = password = ""
    rtsp_port = 0
    skew_s = 0.0  # of its clock against this host's

    def do_POST(self) -> None:
        text = self.rfile.read(int(self.headers["Content-Length"])).decode()
        found = re.search(r"Body[^>]*>\s*<(?:\w+:)?(\w+)", text)
        asked = found[1] if found else ""
        code, body = 200, self.said(asked, text)
        if "<s:Fault" in body:
            code = 400
        if asked not in ("GetServices", "GetSystemDateAndTime") and not self.is_known(text):
            code = 400
            body = (
                "<s:Fault><s:Code><s:Value>s:Sender</s:Value><s:Subcode><s:Value>ter:NotAuthorized"
                "</s:Value></s:Subcode></s:Code><s:Reason><s:Text>Sender not Authorized</s:Text>"
                "</s:Reason></s:Fault>"
            )
        data = envelope("", body)
        self.send_response(code)
        self.send_header("Content-Type", "application/soap+xml; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def is_known(self, text: str) -> bool:
        """Whether digest = base64(sha1(nonce + created + password)), as WS-Security says."""

        def of(name: str) -> str:
            found = re.search(rf"<(?:\w+:)?{name}(?:\s[^>]*)?>([^<]*)<", text)
            return found[1] if found else ""

        created = of("Created")
        if not created:
            return False
        stamp = datetime.fromisoformat(created).timestamp()
        if abs(stamp - time.time() - self.skew_s) > MAX_OFF_S:
            return False
        made = base64.b64decode(of("Nonce")) + created.encode() + self.password.encode()
        digest = base64.b64encode(hashlib.sha1(made).digest()).decode()
        return (of("Username"), of("Password")) == (self.user, digest)

    def said(self, asked: str, text: str) -> str:
        here = f"http://{self.address}:{self.server.server_address[1]}/onvif/device_service"
        if asked == "GetServices":
            spaces = ("device", "media", "events")
            each = "".join(
                f"<tds:Service><tds:Namespace>http://www.onvif.org/ver10/{name}/wsdl"
                f"</tds:Namespace><tds:XAddr>{here}</tds:XAddr></tds:Service>"
                for name in spaces
            )
            return f"<tds:GetServicesResponse>{each}</tds:GetServicesResponse>"
        if asked == "GetEventProperties":
            return (
                "<tev:GetEventPropertiesResponse "
                'xmlns:tev="http://www.onvif.org/ver10/events/wsdl" '
                'xmlns:wstop="http://docs.oasis-open.org/wsn/t-1" '
                f'xmlns:tns1="http://www.onvif.org/ver10/topics"><wstop:TopicSet>{TOPICS}'
                "</wstop:TopicSet></tev:GetEventPropertiesResponse>"
            )
        if asked == "GetProfiles":
            each = "".join(
                f'<trt:Profiles token="{token}"><tt:Name>{token}</tt:Name>'
                f'<tt:VideoEncoderConfiguration token="e{token}"><tt:Encoding>H264</tt:Encoding>'
                f"<tt:Resolution><tt:Width>{width}</tt:Width><tt:Height>{height}</tt:Height>"
                "</tt:Resolution></tt:VideoEncoderConfiguration></trt:Profiles>"
                for token, (_, width, height) in PROFILES.items()
            )
            return f"<trt:GetProfilesResponse>{each}</trt:GetProfilesResponse>"
        if asked == "GetStreamUri":
            token = re.search(r"ProfileToken>([^<]*)<", text)
            assert token is not None
            # As behind an address translation: an address of its own that nobody reaches.
            uri = f"rtsp://192.0.2.9:{self.rtsp_port}/{PROFILES[token[1]][0]}?play_count=0"
            return (
                "<trt:GetStreamUriResponse><trt:MediaUri><tt:Uri>"
                f"{uri}</tt:Uri></trt:MediaUri></trt:GetStreamUriResponse>"
            )
        if asked == "GetSystemDateAndTime":
            now = time.gmtime(time.time() + self.skew_s)
            return (
                "<tds:GetSystemDateAndTimeResponse><tds:SystemDateAndTime><tt:UTCDateTime><tt:Time>"
                f"<tt:Hour>{now.tm_hour}</tt:Hour><tt:Minute>{now.tm_min}</tt:Minute>"
                f"<tt:Second>{now.tm_sec}</tt:Second></tt:Time><tt:Date><tt:Year>{now.tm_year}"
                f"</tt:Year><tt:Month>{now.tm_mon}</tt:Month><tt:Day>{now.tm_mday}</tt:Day>"
                "</tt:Date></tt:UTCDateTime></tds:SystemDateAndTime>"
                "</tds:GetSystemDateAndTimeResponse>"
            )
        return (
            "<s:Fault><s:Code><s:Value>s:Receiver</s:Value></s:Code><s:Reason><s:Text>"
            "not implemented</s:Text></s:Reason></s:Fault>"
        )

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def main() -> int:
    folder, Service.user, Service.password, *command = sys.argv[1:]
    for words in (
        "link set lo up",
        "link add cam0 type veth peer name net0",
        f"addr add {ADDRESS}/24 dev cam0",
        "link set net0 up",
        "link set cam0 up",
        "route add default dev cam0",
    ):
        subprocess.run(["ip", *words.split()], check=True)
    with closing(Background()) as background:
        rtsp = server.RtspServer(str(Path(folder)), ADDRESS, 0)
        background.run(rtsp.start())
        assert rtsp._server is not None
        Service.rtsp_port = rtsp._server.sockets[0].getsockname()[1]
        soap = ThreadingHTTPServer((ADDRESS, 0), Service)
        threading.Thread(target=soap.serve_forever, daemon=True).start()
        heard = threading.Event()
        probed = (ADDRESS, soap.server_address[1], heard)
        threading.Thread(target=answer_probes, args=probed, daemon=True).start()
        assert heard.wait(DEADLINE_S)
        code = subprocess.run(command, check=False).returncode
        soap.shutdown()
        background.run(rtsp.close())
    return code


if __name__ == "__main__":
    sys.exit(main())
