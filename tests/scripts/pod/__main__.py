"""`say WORDS`, `exit CODE`, `sleep` until told to stop, `sleep on` for ever."""

import os
import signal
import sys
import time


def main() -> None:
    match sys.argv[1:]:
        case ["say", words]:
            print(words, os.environ["TEST_VARIABLE"])
        case ["exit", code]:
            sys.exit(int(code))
        case ["sleep", *on]:
            signal.signal(signal.SIGTERM, lambda *_: None if on else sys.exit("told to stop"))
            print("sleeping", flush=True)
            while True:
                time.sleep(0.1)


if __name__ == "__main__":
    main()
