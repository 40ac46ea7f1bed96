"""The reader of GGUF headers: it trusts no value, and every fault is one sentence."""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Callable
from math import prod
from pathlib import Path

import pytest

from core.backends.llama_cpp import model
from core.models import catalogue, formats, gguf_file, spec
from hardware.errors import ExplorerError
from tests.support import hybrids
from tests.support.gguf_bytes import ARRAY, LLAMA, SHAPES, STRING, U32, file, header, text


def test_a_sound_header_is_read(tmp_path: Path) -> None:
    path = file(tmp_path / "m.gguf", header())
    read = gguf_file.read(path)
    assert read.metadata == {**LLAMA, "llama.attention.layer_norm_rms_epsilon": pytest.approx(1e-5)}
    assert {t.name: t.shape for t in read.tensors} == SHAPES
    assert spec.from_gguf(path).n_params == sum(map(prod, SHAPES.values()))


def with_(**change: object) -> bytes:
    return header({**LLAMA, **{key.replace("__", "."): value for key, value in change.items()}})


def damaged(at: int, code: str, value: int) -> bytes:
    whole = bytearray(header())
    struct.pack_into(code, whole, at, value)
    return bytes(whole)


def i32(value: int) -> bytes:
    return struct.pack("<Ii", 5, value)


# the entry of the first tensor: its name, axes, sizes, and behind them its number format and place
FIRST = text("token_embd.weight") + struct.pack("<IQQIQ", 2, 8, 4, 0, 0)
Q4_0_4_4, UNKNOWN = struct.pack("<I", 31), struct.pack("<I", 999)
NESTED = struct.pack("<IIQ", ARRAY, ARRAY, 1) + struct.pack("<IQI", U32, 1, 7)

FAULTS: dict[str, tuple[Callable[[], bytes], str]] = {
    "alignment 0": (lambda: with_(general__alignment=0), "alignment .* is 0, not a power of two"),
    "alignment 3": (lambda: with_(general__alignment=3), "alignment .* is 3, not a power of two"),
    "alignment a list": (lambda: with_(general__alignment=[32]), "alignment .* is a list, not a power of two"),
    "alignment 48": (lambda: with_(general__alignment=48), "alignment .* is 48, not a power of two"),
    "alignment of 2 GiB": (lambda: with_(general__alignment=2**31), r"lies at 128 of the data, where 2,147,483,648"),
    "alignment a text": (lambda: with_(general__alignment="32"), "alignment .* is '32', not a power of two"),
    "alignment true": (lambda: with_(general__alignment=True), "alignment .* is True, not a power of two"),
    "version 0": (lambda: damaged(4, "<I", 0), "cut off or damaged .*version is 0"),
    "version 1": (lambda: damaged(4, "<I", 1), "GGUF of version 1 .*no longer reads"),
    "version 4": (lambda: damaged(4, "<I", 4), "GGUF of version 4, which is not known here"),
    "big-endian": (lambda: damaged(4, ">I", 3), "big-endian GGUF"),
    "no magic": (lambda: b"GGML" + header()[4:], "is not a GGUF file"),
    "many tensors": (lambda: damaged(8, "<Q", 2**62), "more than fit"),
    "many entries": (lambda: damaged(16, "<Q", 2**62), "more than fit"),
    "some more entries": (lambda: damaged(16, "<Q", len(LLAMA) + 5), "cut off or damaged"),
    "a long name": (lambda: damaged(24, "<Q", 2**63), "ends in its header"),
    "a name that is no text": (lambda: header({b"\xff\xfe": 1, **LLAMA}), "name of an entry is not text"),  # type: ignore[dict-item]
    "unknown type": (lambda: with_(x=struct.pack("<II", 99, 1)), "'x' is of an unknown type, 99"),
    "a list of an unknown type": (lambda: with_(x=struct.pack("<IIQ", ARRAY, 99, 1)), "lists an unknown type, 99"),
    "a list of lists": (lambda: with_(x=NESTED), "'x' is a list of lists"),
    "a long list": (lambda: with_(x=struct.pack("<IIQ", ARRAY, U32, 2**61)), "ends in its header"),
    "a long list of texts": (lambda: with_(x=struct.pack("<IIQ", ARRAY, STRING, 2**61)), "ends in its header"),
    "an architecture that is a number": (
        lambda: with_(general__architecture=3),
        "'general.architecture' must be a text",
    ),
    "a size that is a text": (lambda: with_(llama__block_count="1"), "must be a whole number"),
    "a size below nothing": (lambda: with_(llama__context_length=i32(-1)), "'llama.context_length' must be a whole"),
    "a list with a size below nothing": (
        lambda: with_(llama__attention__head_count=struct.pack("<IIQii", ARRAY, 5, 2, 2, -1)),
        "must be a whole number that is not negative",
    ),
    "an epsilon below nothing": (
        lambda: with_(llama__attention__layer_norm_rms_epsilon=-1.0),
        "must be a number that is not negative",
    ),
    "an unknown scaling": (
        lambda: with_(llama__rope__scaling__type="dynamic"),
        "'llama.rope.scaling.type' must be one of none, linear, yarn, longrope",
    ),
    "a scaling that is a number": (lambda: with_(llama__rope__scaling__type=2), "must be one of none, linear"),
    "blocks ahead that are a text": (lambda: with_(llama__nextn_predict_layers="1"), "must be a whole number"),
    "as many blocks ahead as there are": (
        lambda: with_(llama__nextn_predict_layers=1),
        "says that 1 of its blocks foretell further tokens, but has 1 by its 'block_count'",
    ),
    "experts of a dense model": (
        lambda: with_(llama__expert_used_count=2),
        "says that a token uses 2 experts, but that there are 0",
    ),
    "no experts of many": (
        lambda: with_(llama__expert_count=4, llama__expert_used_count=0),
        "says that a token uses 0 experts, but that there are 4",
    ),
    "groups that experts do not fill": (
        lambda: with_(llama__expert_count=6, llama__expert_used_count=2, llama__expert_group_count=4),
        "says an 'expert_group_count' of 4, but has 6 experts",
    ),
    "groups of no experts": (
        lambda: with_(llama__expert_group_count=1),
        "says an 'expert_group_count' of 1, but has 0 experts",
    ),
    "all groups chosen": (
        lambda: with_(
            llama__expert_count=8,
            llama__expert_used_count=2,
            llama__expert_group_count=4,
            llama__expert_group_used_count=4,
        ),
        "says that a token chooses 4 of 4 groups of experts, but that is no choice",
    ),
    "no architecture": (
        lambda: header({key: value for key, value in LLAMA.items() if key != "general.architecture"}),
        "has no entries of its architecture, which it calls ''",
    ),
    "an architecture in capitals": (
        lambda: with_(general__architecture="LLAMA"),
        "has no entries of its architecture, which it calls 'LLAMA'",
    ),
    "half of a head rotated": (
        lambda: with_(llama__rope__dimension_count=2),
        r"a head rotates 2 numbers \('llama.rope.dimension_count'\), but a head has 4, which llama rotates as a",
    ),
    "a token twice": (
        lambda: with_(tokenizer__ggml__tokens=["a", "b", "a", ""]),
        r"'tokenizer\.ggml\.tokens' has two tokens that are 'a'",
    ),
    "more tokens than rows": (
        lambda: with_(tokenizer__ggml__tokens=[*"abcde"], tokenizer__ggml__token_type=[1] * 5),
        "says 5 tokens, but has a table of 4",
    ),
    "wider than its matrices": (
        lambda: with_(llama__feed_forward_length=32),
        r"do not fit its header: blocks\.0\.mlp\.gate_proj has 128 numbers, and 256 by what that says",
    ),
    "more heads than its matrices have": (
        lambda: with_(
            llama__attention__head_count=4, llama__attention__head_count_kv=4, llama__attention__key_length=4
        ),
        r"do not fit its header: blocks\.0\.attn\.q_proj has 64 numbers, and 128 by",
    ),
    "a format of 2024": (
        lambda: header().replace(FIRST, FIRST[:-12] + Q4_0_4_4 + FIRST[-8:]),
        "stores 'token_embd.weight' as Q4_0_4_4, which llama.cpp no longer reads",
    ),
    "an unknown format": (
        lambda: header().replace(FIRST, FIRST[:-12] + UNKNOWN + FIRST[-8:]),
        r"stores 'token_embd.weight' in an unknown number format \(999\)",
    ),
    "a size that is a flag": (lambda: with_(llama__embedding_length=True), "must be a whole number"),
    "an epsilon that is no number": (
        lambda: with_(llama__attention__layer_norm_rms_epsilon=float("nan")),
        "must be a number",
    ),
    "tokens that are numbers": (lambda: with_(tokenizer__ggml__tokens=[1, 2, 3, 4]), "must be a list of texts"),
    "too few types of tokens": (lambda: with_(tokenizer__ggml__token_type=[1]), "has 1 values for 4 tokens"),
    "a template that is a list": (lambda: with_(tokenizer__chat_template=["a"]), "must be a text"),
    "blocks without tensors": (lambda: with_(llama__block_count=9_000_000), "9,000,000"),
    "five axes": (lambda: header(shapes={**SHAPES, "x": (1, 1, 1, 1, 1)}), "'x' has 5 axes"),
    "an empty axis": (lambda: header(shapes={**SHAPES, "x": (4, 0)}), r"'x' of shape \[4, 0\] cannot be stored"),
    "a tensor elsewhere": (lambda: header(places={"blk.0.attn_q.weight": 7}), "lies at 7 of the data"),
    "a tensor upon another": (lambda: header(places={"blk.0.attn_q.weight": 0}), "lies at 0 of the data"),
    "a large tensor": (lambda: header(shapes={**SHAPES, "x": (2**40, 2**40)}), "bytes are missing"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_one_sentence_with_its_cause(fault: str, tmp_path: Path) -> None:
    make, words = FAULTS[fault]
    with pytest.raises(ExplorerError, match=words) as said:
        spec.from_gguf(file(tmp_path / "m.gguf", make()))
    assert said.value.message.endswith(".") and said.value.hint.endswith(".")
    assert said.value.message.startswith("m.gguf") or re.search("configuration|header", said.value.message)


def test_equal_names_are_damage(tmp_path: Path) -> None:
    entries = header({**LLAMA, "llama.block_counu": 1}).replace(b"llama.block_counu", b"llama.block_count")
    with pytest.raises(ExplorerError, match=r"'llama\.block_count' is there twice"):
        gguf_file.read(file(tmp_path / "m.gguf", entries))
    tensors = header().replace(b"blk.0.ffn_up.weight", b"blk.0.attn_q.weight")
    with pytest.raises(ExplorerError, match="two tensors have one name"):
        gguf_file.read(file(tmp_path / "m.gguf", tensors))


INTERESTING = (0, 1, 2, 3, 7, 8, 9, 32, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1)


def mutated(whole: bytes, chance: random.Random) -> bytes:
    """A header with one to three faults: a byte, a number, a part cut out, doubled or turned round."""
    data = bytearray(whole)
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(4, len(data) - 8)
        match chance.randrange(6):
            case 0:
                data[at] = chance.randrange(256)
            case 1:
                struct.pack_into("<I", data, at, chance.choice(INTERESTING))
            case 2:
                struct.pack_into("<Q", data, at, chance.choice((*INTERESTING, 2**62, 2**63, 2**64 - 1)))
            case 3:
                del data[at : at + chance.randint(1, 16)]
            case 4:
                data[at:at] = data[at : at + chance.randint(1, 16)]
            case 5:
                data[at : at + 8] = data[at : at + 8][::-1]
    return bytes(data)


@pytest.mark.parametrize("seed", range(4))
def test_a_mutated_header_is_read_or_refused_in_a_sentence(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    whole = header()
    path = tmp_path / "m.gguf"
    refused = 0
    for _ in range(500):
        file(path, mutated(whole, chance))
        try:
            spec.from_gguf(path)
        except ExplorerError as error:
            refused += 1
            assert error.message.endswith(".") and error.hint
            assert error.message.encode()  # it can be shown
    assert 100 < refused < 500


@pytest.mark.parametrize("name", hybrids.FAMILIES)
def test_mutated_headers_of_families_without_a_file_here(name: str, tmp_path: Path) -> None:
    """Their layers are made from their tensors, whatever these say."""
    chance = random.Random(name)
    written = hybrids.write(tmp_path / "whole.gguf", hybrids.FAMILIES[name])
    whole = written.read_bytes()
    start = min(tensor.offset for tensor in gguf_file.read(written).tensors)
    tokens, path = whole.index(b"tokenizer.ggml.tokens"), tmp_path / "m.gguf"
    merges = whole.index(b"tokenizer.ggml.eos_token_id")
    refused = 0
    for i in range(100):
        # faults before the vocabulary, or behind it, which is the longest part
        head = mutated(whole[:tokens], chance) + whole[tokens:start]
        tail = whole[:merges] + mutated(b"head" + whole[merges:start], chance)[4:]
        path.write_bytes((head if i % 2 else tail) + whole[start:])
        try:
            spec.from_gguf(path)
        except ExplorerError as error:
            refused += 1
            assert error.message.endswith(".") and error.hint and error.message.encode()
    assert 10 < refused < 100


@pytest.mark.parametrize("fault", ["big-endian", "version 1", "version 4"])
def test_a_version_that_nobody_reads_is_told_in_the_list(fault: str, tmp_path: Path) -> None:
    make, words = FAULTS[fault]
    file(tmp_path / "m.gguf", make())
    catalogue.add_folder(str(tmp_path))
    assert [p for p in catalogue.problems() if "m.gguf was skipped" in p and re.search(words, p)]
    with pytest.raises(ExplorerError, match=words):
        catalogue.find(str(tmp_path / "m.gguf"))


@pytest.mark.parametrize(
    ("name", "shown"), [("", "m"), (" \n", "m"), ("a\n\tb", "a b"), ("x" * 5000, "x" * 200), (b"\xff", "\ufffd")]
)
def test_a_models_own_name_is_one_line(name: str | bytes, shown: str, tmp_path: Path) -> None:
    value = struct.pack("<I", STRING) + text(name)
    assert spec.from_gguf(file(tmp_path / "m.gguf", with_(general__name=value))).name == shown


# ---------------------------------------------------------------- parts


def split(folder: Path, n: int = 3, stem: str = "big") -> list[Path]:
    """A model in `n` parts as llama-gguf-split makes them: the first has all metadata."""
    names = list(SHAPES)
    share = -(-len(names) // n)
    made = []
    for i in range(n):
        entries = {**(LLAMA if i == 0 else {}), "split.no": i, "split.count": n, "split.tensors.count": len(SHAPES)}
        own = {name: SHAPES[name] for name in names[i * share : (i + 1) * share]}
        made.append(file(folder / f"{stem}-{i + 1:05d}-of-{n:05d}.gguf", header(entries, own)))
    return made


def test_any_part_opens_the_whole(tmp_path: Path) -> None:
    whole = spec.from_gguf(file(tmp_path / "whole.gguf", header()))
    for part in (files := split(tmp_path)):
        assert formats.files_of(part) == {"gguf": str(files[0])}
        assert spec.from_gguf(part).layers == whole.layers
        assert gguf_file.read(part).paths == tuple(files)
    assert formats.ggufs(tmp_path) == [files[0], tmp_path / "whole.gguf"]
    assert formats.size_bytes({"gguf": str(files[0])}) == sum(f.stat().st_size for f in files)


@pytest.mark.parametrize("gone", [0, 1, 2])
def test_a_missing_part_is_named(gone: int, tmp_path: Path) -> None:
    files = split(tmp_path)
    files[gone].unlink()
    for part in files:
        if part != files[gone]:
            with pytest.raises(ExplorerError, match=f"{files[gone].name} is missing, one of the model's 3 parts"):
                catalogue.find(str(part))
    assert len(formats.ggufs(tmp_path)) == 1


def test_several_missing_parts_are_named(tmp_path: Path) -> None:
    files = split(tmp_path, 3)
    files[0].unlink()
    files[2].unlink()
    words = f"2 of the model's 3 parts are missing: {files[0].name}, {files[2].name}"
    with pytest.raises(ExplorerError, match=words):
        gguf_file.read(files[1])


def test_a_renamed_part_is_explained(tmp_path: Path) -> None:
    files = split(tmp_path)
    renamed = files[1].rename(tmp_path / "second.gguf")
    with pytest.raises(ExplorerError, match=r"second\.gguf is part 2 of 3 of a split model") as said:
        gguf_file.read(renamed)
    assert "Rename it to big-00002-of-00003.gguf" in said.value.hint, "the name of the others"
    with pytest.raises(ExplorerError, match=f"{files[1].name} is missing, .*: it is there as second.gguf") as said:
        gguf_file.read(files[0])
    assert said.value.hint == f"Rename second.gguf to {files[1].name}."
    renamed.rename(files[2])  # where the third was
    split(tmp_path / ".", 3)[2].write_bytes(files[1].read_bytes())
    with pytest.raises(ExplorerError, match=f"{files[2].name} is part 2 of 3"):
        gguf_file.read(files[0])


def test_renamed_parts_are_told_in_the_list(tmp_path: Path) -> None:
    parts = [part.rename(tmp_path / name) for part, name in zip(split(tmp_path), "abc", strict=True)]
    for part in parts:
        part.rename(part.with_suffix(".gguf"))
    file(tmp_path / "whole.gguf", header())
    catalogue.add_folder(str(tmp_path))
    assert [entry.label for entry in catalogue.found_in(str(tmp_path))[0]] == ["whole"]
    for i, name in enumerate("abc"):
        words = f"{name}.gguf is part {i + 1} of 3 of a split model, but its name does not say so."
        assert any(p.endswith(f"{name}.gguf was skipped: {words}") for p in catalogue.problems())
        with pytest.raises(ExplorerError, match=words) as said:
            catalogue.find(str(tmp_path / f"{name}.gguf"))
        assert f"Rename it to a-{i + 1:05d}-of-00003.gguf" in said.value.hint, "one name for all parts"


def test_renamed_parts_of_two_models_keep_their_own_names(tmp_path: Path) -> None:
    for name in ("a", "b"):
        for i, part in enumerate(split(tmp_path)):
            part.rename(tmp_path / f"{name}{i}.gguf")
    with pytest.raises(ExplorerError) as said:
        gguf_file.check_name(tmp_path / "b1.gguf")
    assert "Rename it to b1-00002-of-00003.gguf" in said.value.hint
    with pytest.raises(
        ExplorerError, match=r"big-00002-of-00003\.gguf is missing, one of the model's 3 parts\."
    ) as said:
        files = split(tmp_path)
        files[1].unlink()
        gguf_file.read(files[0])
    assert "under the names that they were published with" in said.value.hint


def test_a_part_is_known_by_its_header_alone(tmp_path: Path) -> None:
    """Its number stands before all other entries or behind them; a token of that name is none."""
    parts = split(tmp_path)
    files = [part.rename(tmp_path / f"sha256-{i}") for i, part in enumerate(parts)]
    assert [gguf_file.part_of(one) for one in files] == [(1, 3), (2, 3), (3, 3)]
    first = {"split.no": 1, "split.count": 2, **LLAMA}
    assert gguf_file.part_of(file(tmp_path / "a", header(first))) == (2, 2)
    word = {**LLAMA, "tokenizer.ggml.tokens": ["split.count", "split.no", "c", "d"]}
    assert gguf_file.part_of(file(tmp_path / "b", header(word))) == (1, 1)
    assert gguf_file.part_of(file(tmp_path / "c", header({**LLAMA, "split.no": 0, "split.count": 1}))) == (1, 1)
    assert gguf_file.part_of(file(tmp_path / "d", header({**LLAMA, "split.count": "3"}))) == (1, 1)
    assert gguf_file.part_of(file(tmp_path / "e", b"", 0)) == gguf_file.part_of(tmp_path / "none") == (1, 1)


def test_a_whole_model_that_is_named_as_a_part(tmp_path: Path) -> None:
    path = file(tmp_path / "m-00001-of-00002.gguf", header())
    with pytest.raises(ExplorerError, match="its header says that it is a whole model") as said:
        formats.files_of(path)
    assert "without the part number" in said.value.hint


@pytest.mark.parametrize("name", ["big-00002-of-00003 (1).gguf", "big (2).gguf", "big-00001-of-00009.gguf"])
def test_the_name_that_a_part_should_have_is_its_models_alone(name: str, tmp_path: Path) -> None:
    part = split(tmp_path)[1].rename(tmp_path / name)
    with pytest.raises(ExplorerError, match=r"part 2 of 3") as said:
        gguf_file.read(part)
    assert "Rename it to big-00002-of-00003.gguf:" in said.value.hint


def test_a_part_beyond_the_last_is_damage(tmp_path: Path) -> None:
    file(tmp_path / "m.gguf", header({**LLAMA, "split.no": 7, "split.count": 2}))
    with pytest.raises(ExplorerError, match="it says that it is part 8 of 2"):
        gguf_file.read(tmp_path / "m.gguf")


def test_a_part_that_is_a_pointer_is_called_so(tmp_path: Path) -> None:
    first, second, _ = split(tmp_path)
    second.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 3\n")
    with pytest.raises(ExplorerError, match=r"big-00002-of-00003\.gguf is not a GGUF file but a pointer of Git LFS"):
        gguf_file.read(first)


@pytest.mark.parametrize("name", ["m.gguf-split-a", "m.gguf-split-b", "m.gguf.part1of2", "M.GGUF.partb"])
def test_pieces_of_a_file_are_to_be_joined(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(header()[:200])
    with pytest.raises(ExplorerError, match="piece of a GGUF file that was cut up") as said:
        formats.files_of(tmp_path / name)
    assert f"into {name[:6]} " in said.value.hint


def test_parts_of_two_models_do_not_mix(tmp_path: Path) -> None:
    split(tmp_path, 3)
    other = split(tmp_path, 3, "other")
    other[0].replace(tmp_path / "big-00003-of-00003.gguf")
    with pytest.raises(ExplorerError, match="is part 1 of 3"):
        gguf_file.read(tmp_path / "big-00001-of-00003.gguf")
    last = split(tmp_path, 3)[2]
    last.write_bytes(header({"split.no": 2, "split.count": 3}, {"token_embd.weight": (4, 8)}) + bytes(4096))
    with pytest.raises(ExplorerError, match="not those of one model"):
        gguf_file.read(tmp_path / "big-00001-of-00003.gguf")


@pytest.mark.parametrize("name", ["m-00000-of-00000.gguf", "m-00004-of-00003.gguf", "m-00001-of-00001.gguf"])
def test_a_number_that_is_no_part_is_part_of_the_name(name: str, tmp_path: Path) -> None:
    path = file(tmp_path / name, header())
    assert gguf_file.read(path).paths == (path,)


def test_endings_in_capitals(tmp_path: Path) -> None:
    path = file(tmp_path / "M.GGUF", header())
    assert formats.ggufs(tmp_path) == [path]
    assert formats.files_of(tmp_path) == {"gguf": str(path)}
    assert spec.from_gguf(path).n_blocks == 1


@pytest.mark.parametrize("named", [str.upper, lambda name: name.replace(".gguf", ".GGUF")])
def test_parts_in_capitals_are_parts(named: Callable[[str], str], tmp_path: Path) -> None:
    files = [part.rename(tmp_path / named(part.name)) for part in split(tmp_path)]
    assert formats.ggufs(tmp_path) == [files[0]]
    assert formats.files_of(files[2]) == {"gguf": str(files[0])}
    assert gguf_file.read(files[1]).paths == tuple(files)
    assert model._parts(files[0]) == files, "llama.cpp is given them all: it knows small letters only"
    files[1].unlink()
    with pytest.raises(ExplorerError, match=f"{files[1].name} is missing, one of the model's 3 parts"):
        catalogue.find(str(files[0]))


def test_parts_that_differ_in_their_letters_are_to_be_renamed(tmp_path: Path) -> None:
    """Nothing but their names tells which parts belong together: llama.cpp makes them from the first."""
    files = split(tmp_path, 2)
    other = files[1].rename(tmp_path / "Big-00002-of-00002.GGUF")
    with pytest.raises(ExplorerError, match=f"parts: it is there as {other.name}") as said:
        gguf_file.read(files[0])
    assert said.value.hint == f"Rename {other.name} to {files[1].name}."


def test_a_first_part_without_tensors_is_a_part(tmp_path: Path) -> None:
    """As llama-gguf-split makes it with --no-tensor-first-split."""
    about = {"split.count": 2, "split.tensors.count": len(SHAPES)}
    first = file(tmp_path / "m-00001-of-00002.gguf", header({**LLAMA, **about, "split.no": 0}, {}), 0)
    second = file(tmp_path / "m-00002-of-00002.gguf", header({**about, "split.no": 1}))
    known = spec.from_gguf(file(tmp_path / "whole.gguf", header()))
    assert spec.from_gguf(first).layers == spec.from_gguf(second).layers == known.layers


@pytest.mark.parametrize(("count", "tensors"), [(0, len(SHAPES)), (1, len(SHAPES)), (1, 0), (0, 99)])
def test_a_split_of_one_is_the_model(count: int, tensors: int, tmp_path: Path) -> None:
    """llama.cpp asks how many tensors there are in all only where there is more than one part."""
    about = {"split.no": 0, "split.count": count, "split.tensors.count": tensors}
    path = file(tmp_path / "m-00001-of-00001.gguf", header({**LLAMA, **about}))
    assert formats.files_of(path) == {"gguf": str(path)} and spec.from_gguf(path).n_blocks == 1
    assert catalogue.find(str(path)).label == "m"


@pytest.mark.parametrize(("key", "value"), [("split.tensors.count", 12), ("split.tensors.count", 10)])
def test_a_wrong_count_of_tensors_is_told(key: str, value: int, tmp_path: Path) -> None:
    files = split(tmp_path)
    entries = {**LLAMA, "split.no": 0, "split.count": 3, key: value}
    own = {name: SHAPES[name] for name in list(SHAPES)[:4]}
    file(files[0], header(entries, own))
    with pytest.raises(ExplorerError, match="parts of big are not those of one model"):
        gguf_file.read(files[2])


def test_a_part_where_no_folder_is(tmp_path: Path) -> None:
    with pytest.raises(ExplorerError, match=r"2 of the model's 2 parts are missing"):
        gguf_file.read(tmp_path / "gone" / "m-00001-of-00002.gguf")


def test_llama_cpp_finds_parts_in_small_letters_itself(tmp_path: Path) -> None:
    assert model._parts(tmp_path / "m-00001-of-00003.gguf") == [tmp_path / "m-00001-of-00003.gguf"]
    assert model._parts(tmp_path / "M.GGUF") == [tmp_path / "M.GGUF"]


@pytest.mark.parametrize(
    ("kind", "words"), [("adapter", "an adapter"), ("imatrix", "an importance matrix"), ("mmproj", "a projector")]
)
def test_a_file_that_says_it_is_no_model_is_not_listed_as_one(kind: str, words: str, tmp_path: Path) -> None:
    path = file(tmp_path / "x.gguf", header({**LLAMA, "general.type": kind}))
    with pytest.raises(ExplorerError, match=rf"x\.gguf holds {words}.* and no language model"):
        catalogue.find(str(path))


@pytest.mark.parametrize(
    ("architecture", "words"),
    [
        ("clip", "a projector"),
        ("controlvector", "a control vector"),
        ("qwen_image", "an image or video model"),
        ("flux", "an image or video model"),
    ],
)
def test_a_file_that_is_no_language_model_by_its_architecture(architecture: str, words: str, tmp_path: Path) -> None:
    """Issues 7799 and 15143 of llama.cpp: older projectors, and models for images, do not say what they are."""
    path = file(tmp_path / "x.gguf", header({"general.architecture": architecture}, {"a.weight": (8, 8)}))
    catalogue.add_folder(str(tmp_path))
    assert any(words in p for p in catalogue.problems()) and not catalogue.found_in(str(tmp_path))[0]
    for read in (spec.from_gguf, lambda path: catalogue.find(str(path))):
        with pytest.raises(ExplorerError, match=rf"x\.gguf holds {words}.* and no language model"):
            read(path)


@pytest.mark.parametrize(
    ("architecture", "kind", "whose"),
    [("llama", 139, "ik_llama.cpp"), ("llama", 340, "ik_llama.cpp"), ("bitnet-b1.58", 36, "bitnet.cpp")],
)
def test_a_number_format_of_another_program_is_called_so(
    architecture: str, kind: int, whose: str, tmp_path: Path
) -> None:
    """Issues 605 of ik_llama.cpp and 17105 of llama.cpp, which calls the last one IQ4_NL_4_4."""
    entries = {k.replace("llama.", f"{architecture}."): v for k, v in LLAMA.items()}
    data = bytearray(header({**entries, "general.architecture": architecture}))
    name = b"blk.0.ffn_up.weight"
    struct.pack_into("<I", data, data.find(name) + len(name) + 4 + 2 * 8, kind)
    words = rf"'blk\.0\.ffn_up\.weight' in a number format \({kind}\) of {re.escape(whose)}, which"
    with pytest.raises(ExplorerError, match=words):
        gguf_file.read(file(tmp_path / "m.gguf", bytes(data)))


def test_a_projector_beside_its_model_is_no_second_model(tmp_path: Path) -> None:
    path = file(tmp_path / "m-Q4_K_M.gguf", header())
    file(tmp_path / "m-mmproj-F16.gguf", header())
    assert formats.files_of(tmp_path) == {"gguf": str(path)}
