"""Renew the generated files in `config/`: the commented example and the JSON schemas for editors.

Run it after changing `mqi/config_keys.py`, `mqi/workflow_keys.py` or a default.
"""

from __future__ import annotations

import json
from pathlib import Path

from mqi import config_keys, init_config, workflow

CONFIG = Path(__file__).resolve().parent.parent / "config"


def generated() -> dict[str, str]:
    """The texts of the generated files by name."""
    return {
        "mqi.example.yaml": init_config.render_example(),
        "mqi.schema.json": json.dumps(config_keys.schema(), indent=2) + "\n",
        "workflow.schema.json": json.dumps(workflow.schema(), indent=2) + "\n",
    }


def main() -> None:
    """Write the files."""
    for name, text in generated().items():
        (CONFIG / name).write_text(text, encoding="utf-8", newline="\n")
        print(f"wrote {CONFIG / name}")


if __name__ == "__main__":
    main()
