#!/usr/bin/env python3
"""A chat backend on rxtd: many users, streamed answers, nothing lost when the server restarts.

    pip install tools/python                         # rxt_client
    rxtd --model models/demo-15m --store s.db &      # the model, the memories
    tools/examples/chat_backend.py &                 # this: users on the one side, rxtd on the other
    nc 127.0.0.1 7000                                # a user: first line a name, then talk

A user is a TCP connection that sends lines. Each name has a session of its own, whose memory stays
from one visit to the next: the backend keeps no transcript and can be restarted at any time."""

import argparse
import asyncio
import re
import sys

import rxt_client

NAME = re.compile(r"[\w.-]{1,40}")
BUSY = "(many people are talking to me, try again in a moment)\n"


class Backend:
    """All users over one connection to rxtd. The client sees to reconnecting: a turn that was
    streaming goes on where it stopped, or is sent again under its old request id."""

    def __init__(self, client: rxt_client.AsyncClient):
        self.client = client

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One user, from hello to goodbye."""
        try:
            name = await self.line(reader)
            if name and NAME.fullmatch(name):
                await self.client.open(f"user.{name}")
                await self.talk(f"user.{name}", reader, writer)
            elif name:
                writer.write(b"a name has letters, digits, '.', '_' and '-'\n")
                await writer.drain()
        except rxt_client.RxtError as e:
            print(f"chat_backend: {e}", file=sys.stderr)
        except ConnectionError:
            pass  # the user went away: what was answered is remembered all the same
        finally:
            writer.close()

    async def line(self, reader: asyncio.StreamReader) -> str:
        """What the user says next; empty at the end."""
        try:
            line = await reader.readline()
        except ValueError:  # longer than a stream's buffer
            return ""
        return line.decode(errors="replace").strip()

    async def talk(
        self, session: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while query := await self.line(reader):
            try:
                await self.answer(session, query, writer)
            except rxt_client.RxtError as e:
                # busy: the server is full, and was for longer than the client's patience.
                # limit: the query is too long; the sentence for humans has both numbers.
                said = BUSY if e.retryable else f"({e.detail})\n" if e.name == "limit" else None
                if said is None:
                    raise
                writer.write(said.encode())
                await writer.drain()

    async def answer(self, session: str, query: str, writer: asyncio.StreamWriter) -> None:
        """One turn. on_disconnect "keep" (the default): should this process die, the turn is
        answered and remembered nevertheless."""
        turn = self.client.turn(session, query, temperature=0.3, top_p=0.9)
        async for token in turn:
            writer.write(token.text.encode())
            await writer.drain()  # a slow user holds up nobody else
        writer.write(b"\n")
        await writer.drain()
        # The turn is on disk here (DONE). Its memory follows in some milliseconds; the user's next
        # turn waits for it in the server, so there is nothing to await.


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--connect", default="tcp://127.0.0.1:7110", help="rxtd's turn endpoint")
    parser.add_argument("--port", type=int, default=7000, help="for users; 0 = any that is free")
    parser.add_argument("--curve", nargs=3, metavar=("SERVER", "PUBLIC", "SECRET"), help="keys")
    args = parser.parse_args()
    curve = rxt_client.Curve(*args.curve) if args.curve else None
    async with rxt_client.AsyncClient(args.connect, curve=curve) as client:
        welcome = await client.welcome()
        server = await asyncio.start_server(Backend(client).serve, "127.0.0.1", args.port)
        port = server.sockets[0].getsockname()[1]
        print(f"{welcome.model} at {args.connect}; users at 127.0.0.1:{port}", flush=True)
        async with server:
            await server.serve_forever()


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        pass
