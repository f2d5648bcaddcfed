"""Privacy-hardened, opt-in telemetry for Kedro. The whole of it is in `plugin.py`."""

__version__ = "2.0.0+hardened"
