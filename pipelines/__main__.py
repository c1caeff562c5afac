"""`python -m pipelines` is `limbeck`."""

from pipelines.cli import main

if __name__ == "__main__":
    main()
