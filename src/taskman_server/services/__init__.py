"""The seven services. None of them knows another; `app` connects them."""
