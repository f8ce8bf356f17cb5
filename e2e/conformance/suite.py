"""Plays all exchanges through one proxy."""

from __future__ import annotations

import asyncio
import socket

from exchanges import Exchange
from play import Outcome, Play
from proxies import Proxy, free_ports

AT_ONCE = 24
EXCHANGE_SECONDS = 30.0


def upstream_socket() -> socket.socket:
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(16)
    return listening


async def play_all(exchanges: list[Exchange], sockets: list[socket.socket], listeners: list[int]) -> list[Outcome]:
    limit = asyncio.Semaphore(AT_ONCE)

    async def one(exchange: Exchange, listening: socket.socket, listener: int) -> Outcome:
        async with limit:
            play = Play(exchange, listener)
            if exchange.profile == "nobody":
                # A socket that is bound and does not listen refuses connections, and nobody else can take its port.
                listening.shutdown(socket.SHUT_RDWR)
                server = None
            else:
                server = await asyncio.start_server(play.accept, sock=listening)
            try:
                return await asyncio.wait_for(play.run(server), EXCHANGE_SECONDS)
            except TimeoutError:
                return Outcome(False, play.trail, f"not over after {EXCHANGE_SECONDS:.0f} s")

    return await asyncio.gather(*(one(*each) for each in zip(exchanges, sockets, listeners)))


def run(kind: str, exchanges: list[Exchange]) -> dict[str, Outcome]:
    """The outcome of each exchange. A profile whose proxy does not start fails alone, with the proxy's words."""
    outcomes: dict[str, Outcome] = {}
    for profile in sorted({exchange.profile for exchange in exchanges}):
        chosen = [exchange for exchange in exchanges if exchange.profile == profile]
        sockets = [upstream_socket() for _ in chosen]
        listeners = free_ports(len(chosen))
        pairs = [(listener, s.getsockname()[1]) for listener, s in zip(listeners, sockets)]
        try:
            with Proxy(kind, profile, pairs) as proxy:
                results = asyncio.run(play_all(chosen, sockets, listeners))
                if not proxy.alive():
                    results = [Outcome(False, [], f"{kind} died: {proxy.log.read_text()[-500:]}") for _ in chosen]
        except RuntimeError as error:
            results = [Outcome(False, [], str(error)) for _ in chosen]
        finally:
            for each in sockets:
                each.close()
        outcomes |= {exchange.name: outcome for exchange, outcome in zip(chosen, results)}
    return outcomes
