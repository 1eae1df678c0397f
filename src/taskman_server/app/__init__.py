"""The wiring: settings → databases, broker, channels → services → gateway. Nothing else puts parts together.

`units` makes one service from the parts it is given; `embedded` runs all of them in this process; `service` runs
one of them as a process of its own, and `edge` the gateway (`process` is what these two have in common).
"""

from taskman_server.app.embedded import Application, embedded, open_application
from taskman_server.app.units import SERVICES

__all__ = ["SERVICES", "Application", "embedded", "open_application"]
