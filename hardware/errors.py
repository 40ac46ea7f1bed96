"""The one exception a user may see."""


class ExplorerError(Exception):
    """A request, a file or an environment that cannot work.

    message: one sentence with the cause. hint: one sentence with the next step.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()
