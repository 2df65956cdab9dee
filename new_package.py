"""Make a LangChain template under ``packages/`` that passes its own tests: ``make new-package NAME=my-chat``."""

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path
from string import Template

ROOT = Path(__file__).resolve().parent
SKELETON = ROOT / "packages" / "skeleton"
NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
EXTRA_PATHS = "extraPaths = [\n"


def main() -> None:
    """Read the command line, write the package, and make it known here unless it goes elsewhere."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="lower-case words with dashes, for example my-chat")
    parser.add_argument("--into", type=Path, help="another folder than packages/; nothing is installed then")
    arguments = parser.parse_args()
    try:
        folder = write(arguments.name, arguments.into or ROOT / "packages")
    except ValueError as error:
        sys.exit(f"No package was made: {error}")
    if arguments.into is None:
        make_known(folder)
    package = folder.name.replace("-", "_")
    print(f'{folder} is made. An entry of models.json serves it: "chain": {{"package": "{package}"}}')


def write(name: str, into: Path) -> Path:
    """Write the package; return its folder.

    Raises:
        ValueError: The name is no package's, or taken.
    """
    if not NAME.fullmatch(name):
        raise ValueError(f"'{name}' is no name: lower-case words with dashes, for example my-chat")
    folder, package = into / name, name.replace("-", "_")
    if folder.exists():
        raise ValueError(f"{folder} is there already")
    title = " ".join(word.capitalize() for word in name.removesuffix("-chat").split("-"))
    places = {"pyproject.toml": ".", "README.md": ".", "__init__.py": package, "chain.py": package}
    for file, place in {**places, "test_chain.py": "tests"}.items():
        text = (SKELETON / f"{file}.in").read_text(encoding="utf-8")
        target = folder / place / file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(Template(text).substitute(name=name, package=package, title=title), encoding="utf-8")
    (folder / package / "py.typed").touch()
    shutil.copy(ROOT / "LICENSE", folder / "LICENSE")
    sort = [sys.executable, "-m", "ruff", "check", "--quiet", "--no-cache", "--select", "I", "--fix"]
    subprocess.run([*sort, "--config", str(ROOT / "pyproject.toml"), str(folder)], check=True)  # by the name's place
    return folder


def make_known(folder: Path) -> None:
    """Install it here, and name it to the type checker."""
    project = ROOT / "pyproject.toml"
    text = project.read_text(encoding="utf-8")
    line = f'    "packages/{folder.name}",\n'
    project.write_text(text.replace(EXTRA_PATHS, EXTRA_PATHS + line, 1), encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--editable"]
    subprocess.run([*pip, str(folder)], check=True)


if __name__ == "__main__":
    main()
