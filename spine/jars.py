"""The jars of the embedded Kafka: which they are, that they are the right ones, where they lie.

Nothing runs here that this release was not tested with: `kafka-jars.sha256` lists every jar of the
classpath with its SHA-256, and each is held against it before every start. `jgo` fetches what is
missing from Maven Central in plain Python, with no Java and no Maven at hand.

`python -m spine.jars` fetches them beforehand and makes the archive of their classes; with `lock`
it resolves them anew and rewrites the checksum file, which is how a Kafka version is changed.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jgo.maven import MavenContext

KAFKA_VERSION = "4.3.1"
# Kafka logs through slf4j and brings no backend for it; without the second, its log stays empty.
MAVEN_ROOTS = (
    f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}",
    "org.apache.logging.log4j:log4j-slf4j-impl:2.25.4",
)
CHECKSUMS = Path(__file__).with_name("kafka-jars.sha256")

FETCH_THREADS_MAX = 6
FETCH_TRIES_MAX = 3
FETCH_TIMEOUT_S = 30

Progress = Callable[[int, int], None]


class EmbeddedKafkaError(Exception):
    """The embedded broker cannot run; the message says why and what to do."""


@dataclass(frozen=True)
class Jar:
    """One file of the classpath: its path in a Maven repository and what its bytes must hash to."""

    sha256: str
    path: PurePosixPath

    @property
    def coordinate(self) -> tuple[str, str, str]:
        """Group, artifact and version, which the path spells out."""
        *group, artifact, version, _ = self.path.parts
        return ".".join(group), artifact, version


def pinned_jars() -> tuple[Jar, ...]:
    """The jars of the classpath, in order, as the tracked checksum file lists them."""
    rows = (line.split() for line in CHECKSUMS.read_text("utf-8").splitlines())
    return tuple(Jar(sha256, PurePosixPath(path)) for sha256, path in rows)


def default_jar_dir() -> Path:
    """The jars live in the Python environment, beside the Java that runs them."""
    return Path(sys.prefix) / "share" / "energyos-spine" / f"kafka-{KAFKA_VERSION}"


def fetch_jars(jar_dir: Path | None = None, progress: Progress | None = None) -> list[Path]:
    """Fetch the jars that are missing, verify every one, and return the classpath.

    A jar enters the folder only whole and verified, so a wrong one found there was changed later.
    """
    folder = jar_dir or default_jar_dir()
    jars = pinned_jars()
    missing = [jar for jar in jars if not (folder / jar.path).exists()]
    if missing:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _fetch(missing, folder, progress or (lambda done, total: None))
        except OSError as error:
            raise EmbeddedKafkaError(f"cannot store Kafka's jars in {folder}: {error}") from error
    for jar in jars:
        _verify(jar, folder / jar.path)
    return [folder / jar.path for jar in jars]


def _fetch(jars: list[Jar], folder: Path, progress: Progress) -> None:
    with (
        tempfile.TemporaryDirectory(dir=folder, prefix="fetch-") as staging,
        ThreadPoolExecutor(FETCH_THREADS_MAX) as threads,
    ):
        context = _maven(Path(staging))
        for done, (jar, fetched) in enumerate(
            threads.map(lambda jar: (jar, _download(context, jar)), jars), start=1
        ):
            _verify(jar, fetched)
            target = folder / jar.path
            target.parent.mkdir(parents=True, exist_ok=True)
            fetched.replace(target)
            progress(done, len(jars))


def _maven(cache: Path) -> MavenContext:
    from jgo.maven import MavenContext  # here: who has the jars need not load it

    return MavenContext(repo_cache=cache, timeout=FETCH_TIMEOUT_S)


def _download(context: MavenContext, jar: Jar) -> Path:
    group, artifact, version = jar.coordinate
    wanted = context.project(group, artifact).at_version(version).artifact()
    for tries_left in reversed(range(FETCH_TRIES_MAX)):
        try:
            return wanted.resolve()
        except (OSError, RuntimeError) as error:  # jgo raises these two when the network fails
            (context.repo_cache / jar.path).unlink(missing_ok=True)  # a part would count as whole
            if not tries_left:
                raise EmbeddedKafkaError(
                    f"cannot fetch {jar.path.name} from Maven Central: {error}"
                ) from error
    raise AssertionError("unreachable: the last try returns or raises")


def _verify(jar: Jar, file: Path) -> None:
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != jar.sha256:
        raise EmbeddedKafkaError(
            f"{file} is not the file this release was tested with: SHA-256 {found}, "
            f"pinned {jar.sha256}. Delete it to have it fetched again."
        )


def resolve_jars() -> Iterator[Jar]:
    """Walk the dependencies of the pinned roots and hash what Maven Central holds for them.

    One root at a time, and the first to name an artifact wins: resolved together, the version
    table of log4j's parent would replace Kafka's own clients by older ones.
    """
    from jgo.parse import Coordinate

    with tempfile.TemporaryDirectory() as staging:
        context = _maven(Path(staging))
        seen: set[tuple[str, str]] = set()
        for root in MAVEN_ROOTS:
            wanted = context.create_dependency(replace(Coordinate.parse(root), scope="compile"))
            inputs, transitive = context.resolver.resolve([wanted])
            needed = [dep for dep in transitive if dep.scope in ("compile", "runtime")]
            for dependency in (*inputs, *needed):
                if (dependency.groupId, dependency.artifactId) in seen:
                    continue
                seen.add((dependency.groupId, dependency.artifactId))
                file = dependency.artifact.resolve()
                yield Jar(
                    hashlib.sha256(file.read_bytes()).hexdigest(),
                    PurePosixPath(file.relative_to(staging).as_posix()),
                )


def _main(arguments: list[str]) -> None:
    from rich.progress import Progress as Bar

    if arguments == ["lock"]:
        lines = [f"{jar.sha256}  {jar.path}\n" for jar in resolve_jars()]
        CHECKSUMS.write_text("".join(lines), "utf-8")
        return
    with Bar() as bar:
        task = bar.add_task("Fetching Kafka's jars", total=None)
        fetch_jars(None, lambda done, total: bar.update(task, completed=done, total=total))
        bar.update(task, total=1, completed=1)
    prepare(default_jar_dir())


def prepare(folder: Path) -> bool:
    """Make the archive of Kafka's classes, unless there is one; whether a start will use it.

    A broker is run for it, once. Where none can run, it is who needs one that is told.
    """
    from spine.classes import is_usable, make_archive, noting
    from spine.embedded import EmbeddedKafka

    jars = fetch_jars(folder)
    if is_usable(folder, jars):
        return True
    with tempfile.TemporaryDirectory() as scratch:
        lists = Path(scratch) / "lists"
        lists.mkdir()
        try:
            with EmbeddedKafka(Path(scratch), jar_dir=folder, java_flags=[noting(lists)]):
                pass
        except EmbeddedKafkaError:
            return False
        return make_archive(folder, jars, lists.iterdir())


if __name__ == "__main__":
    _main(sys.argv[1:])
