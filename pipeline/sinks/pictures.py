"""What a camera shows now, for receivers that want to see it: asked of the run's own HTTP port."""

from __future__ import annotations

import http.client
import logging
from dataclasses import dataclass, field

log = logging.getLogger(__name__)

ANSWER_S = 3.0
MOST_BYTES = 4 << 20


@dataclass(frozen=True)
class CameraPictures:
    """address: HOST:PORT of the run, None where it has none. token: that it asks for, or empty."""

    address: str | None = None
    token: str = field(default="", repr=False)

    def of(self, source: str) -> bytes | None:
        """Return a JPEG of the source's newest picture with its boxes; None if there is none now.

        Waits three seconds at most for each answer of the port.
        """
        if self.address is None:
            return None
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        connection = http.client.HTTPConnection(self.address, timeout=ANSWER_S)
        try:
            connection.request("GET", f"/snapshot/{source}.jpg", headers=headers)
            answer = connection.getresponse()
            picture = answer.read(MOST_BYTES + 1)
        except (OSError, http.client.HTTPException) as error:
            log.debug("no picture of %s: %s", source, error)
            return None
        finally:
            connection.close()
        if answer.status != 200 or len(picture) > MOST_BYTES:
            log.debug("no picture of %s: the port answers %d", source, answer.status)
            return None
        return picture
