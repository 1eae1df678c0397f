"""The seven services. None of them knows another; `app.py` connects them."""
