"""A `.safetensors` of ours says which model it is of."""

import json
import os
import stat

import pytest
import safetensors
import torch

from tests.vidtok_model.support import TINY_FSQ, TINY_KL, TINY_KL_V1_1, save, tiny_tokenizer
from vidtok_model import load_tokenizer, read_config, save_tokenizer
from vidtok_model.tensor_file import save_weights


def header_of(path) -> dict[str, str]:
    with safetensors.safe_open(path, framework="pt") as file:
        return file.metadata()


def test_a_saved_model_comes_back_without_a_name(tmp_path):
    path, tokenizer = tmp_path / "model.safetensors", tiny_tokenizer(TINY_KL_V1_1)
    save_tokenizer(tokenizer, path, source_sha256="ab" * 32)
    assert read_config(path) == TINY_KL_V1_1 and read_config(str(path)) == TINY_KL_V1_1
    loaded = load_tokenizer(None, path)
    assert loaded.config == TINY_KL_V1_1
    expected = tokenizer.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in loaded.state_dict().items())
    header = header_of(path)
    assert header.keys() == {"format", "vidtok.name", "vidtok.config", "vidtok.source_sha256"}
    assert (header["format"], header["vidtok.name"]) == ("pt", "tiny_kl_v1_1")
    assert header["vidtok.source_sha256"] == "ab" * 32
    assert json.loads(header["vidtok.config"]) == TINY_KL_V1_1.to_dict()
    save_tokenizer(tokenizer, path)
    assert "vidtok.source_sha256" not in header_of(path)


def test_another_model_than_the_file_says_is_refused(tmp_path):
    """Names and shapes of the two are the same, so nothing else would tell."""
    path = tmp_path / "model.safetensors"
    save_tokenizer(tiny_tokenizer(TINY_KL), path)
    message = r"model\.safetensors is of tiny_kl, not of tiny_kl_v1_1: .*its version is '1\.0', asked '1\.1'"
    with pytest.raises(ValueError, match=message):
        load_tokenizer(TINY_KL_V1_1, path)
    assert load_tokenizer(TINY_KL, path).config == TINY_KL
    # A file that says nothing is believed.
    silent = save(tiny_tokenizer(TINY_KL).state_dict(), tmp_path / "silent.safetensors")
    assert load_tokenizer(TINY_KL_V1_1, silent).config == TINY_KL_V1_1


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_a_file_that_says_nothing_needs_a_name(tmp_path, suffix):
    path = save(tiny_tokenizer(TINY_FSQ).state_dict(), tmp_path / f"silent{suffix}")
    assert read_config(path) is None
    with pytest.raises(ValueError, match=rf"silent{suffix} doesn't say which model it is of: give the model's name"):
        load_tokenizer(None, path)


def test_the_header_is_read_without_the_weights(tmp_path):
    """The file is cut behind the header's first weights: reading it takes the header alone."""
    path = tmp_path / "model.safetensors"
    save_tokenizer(tiny_tokenizer(TINY_FSQ), path)
    with open(f"/proc/{os.getpid()}/io") as before:
        start = int(before.readline().split()[1])
    assert read_config(path) == TINY_FSQ
    with open(f"/proc/{os.getpid()}/io") as after:
        assert int(after.readline().split()[1]) - start < path.stat().st_size / 2


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("no JSON", "has a header that describes no model: "),
        ("[1]", "has a header that describes no model: "),
        ("3", "has a header that describes no model: "),
        ('{"name": "x"}', "has a header that describes no model: configuration lacks latent_channels"),
        ('{"name": "x", "latent_channels": 0}', "describes no model: latent_channels holds 0"),
        ('{"name": "x", "latent_channels": 4, "new": 1}', "describes no model: unknown configuration field new"),
    ],
)
def test_a_header_of_nonsense(tmp_path, said, message):
    path = tmp_path / "odd.safetensors"
    safetensors.torch.save_file({"x": torch.zeros(1)}, path, metadata={"vidtok.config": said})
    for read in (read_config, lambda path: load_tokenizer(TINY_FSQ, path)):
        with pytest.raises(ValueError, match=rf"odd\.safetensors .*{message}"):
            read(path)


def test_weights_stay_as_they_are(tmp_path):
    """Dtypes are kept; views into one storage, and other strides, become what the format can hold."""
    path, flat = tmp_path / "model.safetensors", torch.arange(12.0)
    weights = {
        "half": flat.half(),
        "turned": flat.view(3, 4).t(),
        "view": flat[2:5],
        "again": flat,
        "spread": torch.ones(()).expand(2, 3),
        "parameter": torch.nn.Parameter(flat.bfloat16()),
    }
    save_weights(weights, TINY_FSQ, path)
    found = safetensors.torch.load_file(path)
    assert found.keys() == weights.keys()
    for name, value in weights.items():
        assert found[name].dtype == value.dtype and torch.equal(found[name], value), name


def test_a_file_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    save_tokenizer(tiny_tokenizer(TINY_FSQ), path)
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask, "a file like any other that is written here"
    whole, write = path.read_bytes(), safetensors.torch.save_file

    def breaks_off(tensors, written, **options):
        write(tensors, written, **options)
        os.truncate(written, 100)
        raise OSError("No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", breaks_off)
    with pytest.raises(ValueError, match=r"model\.safetensors can't be written: No space left"):
        save_tokenizer(tiny_tokenizer(TINY_KL), path)
    assert path.read_bytes() == whole
    assert list(tmp_path.iterdir()) == [path], "and nothing temporary is left"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.ckpt", r"model\.ckpt ends in '\.ckpt': expected \.safetensors"),
        ("none/model.safetensors", r"none/model\.safetensors can't be written: "),
    ],
)
def test_a_file_that_cannot_be_written(tmp_path, name, message):
    with pytest.raises(ValueError, match=message):
        save_tokenizer(tiny_tokenizer(TINY_FSQ), tmp_path / name)
