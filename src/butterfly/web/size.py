"""`SizeGuard`: how large a request may be."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from butterfly.web.failures import answered, error_body


class SizeGuard:
    """Refuses requests that are too large, before they are read to the end.

    Args:
        app: What is behind it.
        most: The most bytes of a body.
        fix: What the operator may do about it.
    """

    def __init__(self, app: ASGIApp, most: int, fix: str) -> None:
        self._app, self._most, self._fix = app, most, fix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or let it through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        told = dict(scope["headers"]).get(b"content-length", b"0")
        if told.isdigit() and int(told) > self._most:
            await self._refuse(scope, receive, send)
            return
        await self._counted(scope, receive, send)

    async def _counted(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, and count what comes of it."""
        count, is_answered = 0, False

        async def counting() -> Message:
            nonlocal count
            message = await receive()
            count += len(message.get("body", b""))
            if count > self._most:
                raise _TooLarge
            return message

        async def sending(message: Message) -> None:
            nonlocal is_answered
            is_answered = True
            await send(message)

        try:
            await self._app(scope, counting, sending)
        except _TooLarge:
            if not is_answered:
                await self._refuse(scope, receive, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        said = f"the request is larger than {self._most} bytes: send less, or "
        await answered(error_body(said + self._fix, 413), 413)(scope, receive, send)


class _TooLarge(BaseException):
    """More came than may come; no handler of errors on the way may answer it."""
