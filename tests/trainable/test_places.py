"""What a person may give where an experiment is to lie; a URI never becomes a local folder of that name."""

from pathlib import Path

import pytest

from trainable.errors import ConfigError
from trainable.places import absolute, local_folder, place_of


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ("results", Path("results")),
        ("/data/my results", Path("/data/my results")),
        ("./s3:", Path("s3:")),
        ("C:/odd", Path("C:/odd")),
        ("file:///data/my%20results", Path("/data/my results")),
        ("FILE://localhost/data", Path("/data")),
        (Path("results"), Path("results")),
    ],
)
def test_a_local_place_is_a_path(given: str | Path, place: Path) -> None:
    assert place_of(given) == place
    assert absolute(place).is_absolute()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("ftp://host/x", r"'ftp://host/x' cannot be used: ftp:// is not supported.*file://"),
        ("https://bucket.s3.amazonaws.com/x", "https:// is not supported"),
        ("s3:/bucket/x", "two slashes after the colon"),
        (Path("s3://bucket/x"), "a Path loses a slash"),
        ("file://host/x", "names no local folder"),
        ("file://", "names no local folder"),
    ],
)
def test_what_is_not_supported_is_refused_with_what_is(given: str | Path, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        place_of(given)


def test_what_must_be_local_is(tmp_path: Path) -> None:
    assert local_folder("models/one", "--output_dir") == Path("models/one")
    assert local_folder(f"file://{tmp_path}", "--output_dir") == tmp_path
    for uri in ("s3://bucket/x", "gs://bucket/x", Path("s3://bucket/x")):
        with pytest.raises(ConfigError, match=r"--output_dir '(s3|gs):/.*' must be a local folder"):
            local_folder(uri, "--output_dir")
