"""What the documents show is run: the code of tools/python/README.md and the chat backend. Against
the fake server, which can do what a real one seldom does; test_server.py has the real one."""

import asyncio
import os
import pathlib
import re
import subprocess
import sys
import unittest

from fake_server import TURN, FakeServer

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "tools" / "python"
README = PACKAGE / "README.md"
BACKEND = ROOT / "tools" / "examples" / "chat_backend.py"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(PACKAGE)}


def readme_blocks():
    return re.findall(r"```python\n(.*?)```", README.read_text(), re.S)


class ReadmeTest(unittest.TestCase):
    def test_its_code_runs(self):
        blocks = readme_blocks()
        self.assertGreaterEqual(len(blocks), 4)
        for block in blocks:
            with self.subTest(block=block), FakeServer() as server:
                code = re.sub(r"tcp://127\.0\.0\.1:711\d", server.endpoint, block)
                done = subprocess.run(
                    [sys.executable, "-W", "error", "-c", code], env=ENVIRONMENT,
                    capture_output=True, text=True, timeout=600,
                )
                self.assertEqual((done.returncode, done.stderr), (0, ""))


class BackendTest(unittest.IsolatedAsyncioTestCase):
    N_USERS = 20

    async def asyncSetUp(self):
        self.server = self.enterContext(FakeServer())
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, str(BACKEND), "--connect", self.server.endpoint, "--port", "0",
            env=ENVIRONMENT, stdout=subprocess.PIPE,
        )
        banner = (await self.process.stdout.readline()).decode()
        self.port = int(banner.rsplit(":", 1)[1])

    async def asyncTearDown(self):
        self.process.kill()
        await self.process.wait()
        self.process._transport.close()

    async def user(self, name, queries):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(f"{name}\n".encode())
        answers = []
        for query in queries:
            writer.write(f"{query}\n".encode())
            answers.append((await reader.readline()).decode().rstrip("\n"))
        writer.close()
        await writer.wait_closed()
        return answers

    async def test_many_users(self):
        asked = [[f"q{u}.{k} äöü" for k in range(5)] for u in range(self.N_USERS)]
        got = await asyncio.gather(*(self.user(f"u{u}", q) for u, q in enumerate(asked)))
        self.assertEqual(got, asked)  # the fake server says what it hears

    async def test_a_server_that_restarts_under_them(self):
        self.server.stop_at = 6
        asked = [[f"query {u}"] for u in range(self.N_USERS)]
        users = asyncio.gather(*(self.user(f"u{u}", q) for u, q in enumerate(asked)))
        while self.server.count(TURN) < self.N_USERS:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(self.server.restart, forget=True)
        self.assertEqual(await users, asked)
        turns = {request for type, request, _ in self.server.log if type == TURN}
        self.assertEqual(len(turns), self.N_USERS)

    async def test_a_bad_name(self):
        self.assertIn("letters", (await self.user("no way", ["hi"]))[0])


if __name__ == "__main__":
    unittest.main()
