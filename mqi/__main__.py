"""`python -m mqi`."""

from mqi.cli import main

if __name__ == "__main__":
    main()
