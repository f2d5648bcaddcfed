"""Privacy-hardened, opt-in telemetry for Kedro. The whole of it is in `plugin.py`."""

__version__ = "1.1.0+hardened"
