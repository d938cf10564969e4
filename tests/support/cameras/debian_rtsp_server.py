"""A camera by Debian's GStreamer: run by /usr/bin/python3, which has its bindings.

Standard input: one line of JSON {clip, mount, parser, payloader, user, password, scheme}; without
`user` nobody is asked. The port is printed; the end of standard input ends the program.
"""

import json
import os
import sys
import threading

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtsp, GstRtspServer  # noqa: E402


def guard(server, factory, given):
    """Ask for a name and a password."""
    role = "viewer"
    token = GstRtspServer.RTSPToken()
    token.set_string(GstRtspServer.RTSP_TOKEN_MEDIA_FACTORY_ROLE, role)
    auth = GstRtspServer.RTSPAuth()
    if given["scheme"] == "digest":
        auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
        auth.add_digest(given["user"], given["password"], token)
    else:
        basic = GstRtspServer.RTSPAuth.make_basic(given["user"], given["password"])
        auth.add_basic(basic, token)
    server.set_auth(auth)
    factory.add_role_from_structure(
        Gst.Structure.from_string(
            f"{role}, {GstRtspServer.RTSP_PERM_MEDIA_FACTORY_ACCESS}=true,"
            f" {GstRtspServer.RTSP_PERM_MEDIA_FACTORY_CONSTRUCT}=true"
        )[0]
    )


def main():
    given = json.loads(sys.stdin.readline())
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service("0")
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(
        f"( filesrc location={given['clip']} ! matroskademux ! {given['parser']}"
        f" ! {given['payloader']} name=pay0 pt=96 )"
    )
    if given.get("user"):
        guard(server, factory, given)
    server.get_mount_points().add_factory(given["mount"], factory)
    if not server.attach(None):
        sys.exit("no port")
    print(server.get_bound_port(), flush=True)
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    GLib.MainLoop().run()


main()
