"""A network that can be cut: a TCP relay on loopback that breaks its connections after so many bytes."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import Any


class CutProxy:
    """Relays connections to a port of this host.

    Attributes:
        cut_after_up: Bytes towards the server after which every connection breaks, once; None never.
        cut_after_down: The same, towards the client.
        blocked: Whether bytes are held back, as in a network that swallows them.
    """

    def __init__(self, target_port: int) -> None:
        self.port = 0
        self.cut_after_up: int | None = None
        self.cut_after_down: int | None = None
        self.blocked = False
        self._target_port = target_port
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def start(self) -> None:
        self._thread.start()
        self._call(self._listen())

    def stop(self) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def cut(self) -> None:
        """Breaks every connection now."""
        self._loop.call_soon_threadsafe(self._abort)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        self._writers.add(up_writer)
        await asyncio.gather(
            self._relay(reader, up_writer, "cut_after_up"), self._relay(up_reader, writer, "cut_after_down")
        )
        self._writers -= {writer, up_writer}

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limit: str) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                while self.blocked:
                    await asyncio.sleep(0.02)
                left = getattr(self, limit)
                if left is not None:
                    setattr(self, limit, left - len(data))
                    if left <= len(data):
                        setattr(self, limit, None)
                        self._abort()
                        return
                writer.write(data)
                await writer.drain()
        writer.close()

    def _abort(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    async def _close(self) -> None:
        self._server.close()
        self._abort()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _call(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)
