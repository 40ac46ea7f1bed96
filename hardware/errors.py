"""What can go wrong with a device file or a measurement; `core` turns it into the message a user sees."""


class HardwareError(ValueError):
    """message: one sentence with the cause. hint: one sentence with the next step."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()
