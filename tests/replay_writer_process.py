"""A process that appends episodes for ever and says the seed of each one that was acknowledged; made to be killed."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

from replay_episodes import random_episode  # noqa: E402

from replay.episode_store import EpisodeStore  # noqa: E402


def main() -> None:
    root, writer, first_seed = sys.argv[1], sys.argv[2], int(sys.argv[3])
    store = EpisodeStore(root, writer_name=writer)
    seed = first_seed
    while True:
        store.append(random_episode(seed))
        print(seed, flush=True)
        seed += 1


if __name__ == "__main__":
    main()
