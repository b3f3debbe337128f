"""Where weights are found: in folders, in the hub's cache without a network, and what is said where they are not."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest
import torch
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors.torch import load_file, save_file
from tiny import make_request, on_cpu, tiny_profile, write_adapter, write_longcat, write_paper

from squeeze.models import sources
from squeeze.models.loading import LoadError, load
from squeeze.models.profiles import PROFILES
from squeeze.models.sources import locate, revisions_of
from squeeze.pipeline import generate

LONGCAT = PROFILES["longcat"].sources["transformer"]
MLLM, FLUX = (PROFILES["paper"].sources[name] for name in ("mllm", "transformer"))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    path = tmp_path_factory.mktemp("files")
    write_longcat(path / "longcat")
    write_paper(path / "paper")
    write_adapter(path / "adapter")
    return path


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the hub, and the function that puts a folder into it as a repository's snapshot. The network is
    off, as everywhere in these tests."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))

    def add(source, folder, commit=None, refs=None):
        root = tmp_path / f"models--{source.repo.replace('/', '--')}"
        shutil.copytree(folder, root / "snapshots" / (commit or source.revision), dirs_exist_ok=True)
        if refs:
            (root / "refs").mkdir(exist_ok=True)
            (root / "refs" / refs).write_text(commit)
        return root / "snapshots" / (commit or source.revision)

    return add


def refused(profile, **options):
    with pytest.raises(LoadError) as error:
        load(profile, **options)
    message = str(error.value)
    assert "\n" not in message, "one sentence or two, not a traceback"
    return message


def test_every_row_names_a_commit():
    for profile in PROFILES.values():
        for name, source in profile.sources.items():
            assert len(source.revision) == 40, f"{profile.name}'s {name} is not pinned"
        assert (profile.folder is None) == bool(profile.sources), "embedded, or from the hub"


def test_longcat_from_the_cache_without_a_network(files, cache):
    cache(LONGCAT, files / "longcat")
    models = load(on_cpu("longcat"))
    *_, last = generate(models, make_request(models.profile, height=64, stage_steps=(0, 2, 0), steps=2))
    assert last.image.size == (64, 64)
    assert last.recipe["revision"] == models.revision


def test_paper_from_the_cache_without_a_network(files, cache):
    """InternVL at the root of its repository, FLUX in folders."""
    cache(MLLM, files / "paper" / "mllm")
    cache(FLUX, files / "paper")
    models = load(on_cpu("paper"), adapter=files / "adapter")
    *_, last = generate(models, make_request(models.profile))
    assert last.image.size == (64, 32)


def test_nothing_is_asked_of_the_network_where_everything_is_there(files, cache, monkeypatch):
    cache(LONGCAT, files / "longcat")
    asked = []
    real = sources.snapshot_download
    monkeypatch.setattr(sources, "snapshot_download", lambda **how: asked.append(how) or real(**how))
    locate(PROFILES["longcat"], {})
    assert [how["local_files_only"] for how in asked] == [True], "once a repository, and without the network"


def test_only_what_is_needed_is_fetched(monkeypatch, tmp_path):
    asked = {}

    def hub(**how):
        if how.get("local_files_only"):
            raise LocalEntryNotFoundError("not here")
        asked[how["repo_id"]] = how
        for name in ("transformer", "vae"):
            (tmp_path / name).mkdir(exist_ok=True)
        return str(tmp_path)

    monkeypatch.setattr(sources, "snapshot_download", hub)
    found = locate(PROFILES["paper"], {})
    assert set(asked) == {MLLM.repo, FLUX.repo}, "each repository once"
    assert asked[FLUX.repo]["revision"] == FLUX.revision
    assert {pattern.split("/")[0] for pattern in asked[FLUX.repo]["allow_patterns"]} == {"transformer", "vae"}
    assert found["vae"].path == tmp_path / "vae"
    assert found["mllm"].path == found["tokenizer"].path == tmp_path


def test_revisions_identify_the_weights(files, cache, tmp_path):
    old = cache(LONGCAT, files / "longcat").name
    cache(LONGCAT, files / "longcat", commit="a" * 40, refs="main")
    pinned = load(on_cpu("longcat"))
    moved = load(on_cpu("longcat"), revisions={LONGCAT.repo: "a" * 40})
    named = load(on_cpu("longcat"), revisions={LONGCAT.repo: "main"})
    assert old == LONGCAT.revision
    assert pinned.revision != moved.revision
    assert named.revision == moved.revision, "a branch is known by the commit it stands at"


def test_an_adapter_names_the_commits_it_was_trained_with(files, cache, tmp_path):
    adapter = shutil.copytree(files / "adapter", tmp_path / "adapter")
    said = json.loads((adapter / "adapter.json").read_text())
    said["base"]["transformer"]["revision"] = "b" * 40
    (adapter / "adapter.json").write_text(json.dumps(said))
    cache(MLLM, files / "paper" / "mllm")
    cache(FLUX, files / "paper", commit="b" * 40)
    load(on_cpu("paper"), adapter=adapter)  # the row's own commit is not in the cache
    assert FLUX.repo in refused(on_cpu("paper"), adapter=adapter, revisions={FLUX.repo: "c" * 40})


def test_a_folder_is_known_by_its_weights(files, tmp_path):
    profile = on_cpu("longcat", files / "longcat")
    copy = shutil.copytree(files / "longcat", tmp_path / "copy")
    assert load(profile).revision == load(profile, folder=copy).revision, "the same weights in another place"
    path = copy / "vae" / "diffusion_pytorch_model.safetensors"
    state = load_file(path)
    save_file({name: value + 1e-3 for name, value in state.items()}, path, metadata={"format": "pt"})
    assert load(profile).revision != load(profile, folder=copy).revision


def test_no_files_and_no_network(cache):
    message = refused(on_cpu("longcat"))
    assert LONGCAT.repo in message
    assert LONGCAT.revision in message
    assert "--weights" in message


ERRORS = {
    "gated": (GatedRepoError, 403, "accept its licence at https://huggingface.co/.*HF_TOKEN.*hf auth login"),
    "revision": (RevisionNotFoundError, 404, r"no revision 'nope'.*--revision .*@COMMIT"),
    "nowhere": (RepositoryNotFoundError, 401, "no repository .*hf auth login"),
    "down": (HfHubHTTPError, 503, "could not be fetched .*start again"),
}


@pytest.mark.parametrize(
    "broken",
    [
        httpx2.ReadTimeout("timed out"), RuntimeError("Xet says no"), OSError(28, "No space"),
        json.JSONDecodeError("Expecting value", "<html>", 0),
    ],
)  # fmt: skip
def test_a_download_that_breaks_off(monkeypatch, broken):
    def hub(**how):
        raise LocalEntryNotFoundError("not here") if how.get("local_files_only") else broken

    monkeypatch.setattr(sources, "snapshot_download", hub)
    message = refused(on_cpu("longcat"))
    assert str(broken) in message
    assert "start again" in message


@pytest.mark.parametrize("what", ERRORS)
def test_what_the_hub_refuses(monkeypatch, files, what):
    kind, status, sentence = ERRORS[what]

    def hub(**how):
        if how.get("local_files_only"):
            raise LocalEntryNotFoundError("not here")
        request = httpx2.Request("GET", f"https://huggingface.co/{how['repo_id']}")
        raise kind(f"{status} Client Error.\n\nmore", response=httpx2.Response(status, request=request))

    monkeypatch.setattr(sources, "snapshot_download", hub)
    with pytest.raises(LoadError, match=sentence) as error:
        load(on_cpu("longcat"), revisions={LONGCAT.repo: "nope"})
    assert LONGCAT.repo in str(error.value)
    assert "\n" not in str(error.value)


def test_a_gate_is_met_before_gigabytes_of_something_else_have_come(monkeypatch):
    asked = []

    def hub(**how):
        if how.get("local_files_only"):
            raise LocalEntryNotFoundError("not here")
        asked.append(how["repo_id"])
        request = httpx2.Request("GET", f"https://huggingface.co/{how['repo_id']}")
        raise GatedRepoError("403", response=httpx2.Response(403, request=request))

    monkeypatch.setattr(sources, "snapshot_download", hub)
    with pytest.raises(LoadError, match="accept its licence"):
        sources.locate(PROFILES["paper"], {})
    assert asked == ["black-forest-labs/FLUX.1-dev"]


def test_what_the_hub_refuses_in_its_own_wrapping(monkeypatch):
    """Of a token without the right, or too many requests, huggingface_hub says only that nothing is in the cache."""

    def hub(**how):
        request = httpx2.Request("GET", f"https://huggingface.co/{how['repo_id']}")
        refusal = HfHubHTTPError("403 Forbidden: no access", response=httpx2.Response(403, request=request))
        raise LocalEntryNotFoundError("not here") from (None if how.get("local_files_only") else refusal)

    monkeypatch.setattr(sources, "snapshot_download", hub)
    message = refused(on_cpu("longcat"))
    assert "403 Forbidden" in message
    assert "whether your token may read it" in message


def test_a_revision_of_nothing_we_take():
    message = refused(on_cpu("longcat"), revisions={"me/other": "main"})
    assert "me/other" in message
    assert LONGCAT.repo in message
    assert "none" in refused(PROFILES["plush"], revisions={"me/other": "main"})


@pytest.mark.parametrize("text", ["main", "@main", "me/other@"])
def test_a_revision_is_written_with_its_repository(text):
    with pytest.raises(LoadError, match="REPO@COMMIT"):
        revisions_of([text])


def test_revisions_are_read():
    assert revisions_of(["me/other@main", "you/it@1234"]) == {"me/other": "main", "you/it": "1234"}


@pytest.fixture
def sharded(files, tmp_path):
    """A copy of the longcat folder with its transformer in two shards."""
    copy = shutil.copytree(files / "longcat", tmp_path / "sharded")
    whole = copy / "transformer" / "diffusion_pytorch_model.safetensors"
    state = load_file(whole)
    whole.unlink()
    names, place = sorted(state), {}
    for number, part in enumerate((names[:5], names[5:]), 1):
        file = f"diffusion_pytorch_model-0000{number}-of-00002.safetensors"
        save_file({name: state[name] for name in part}, whole.with_name(file), metadata={"format": "pt"})
        place |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 1}, "weight_map": place}
    whole.with_name(f"{whole.name}.index.json").write_text(json.dumps(index))
    return copy


def test_shards_are_read(sharded):
    load(on_cpu("longcat", sharded))


@pytest.mark.parametrize("how", ["gone", "cut", "only a header", "empty"])
def test_half_a_shard(sharded, how):
    path = sharded / "transformer" / "diffusion_pytorch_model-00002-of-00002.safetensors"
    if how == "gone":
        path.unlink()
    else:
        kept = {"cut": path.stat().st_size - 1, "only a header": 100, "empty": 0}[how]
        path.write_bytes(path.read_bytes()[:kept])
    message = refused(on_cpu("longcat", sharded))
    assert str(sharded / "transformer") in message
    assert path.name in message, "which file"
    assert f"Restore it from {LONGCAT.repo}" in message


def test_half_a_shard_in_the_cache(files, cache, sharded):
    snapshot = cache(LONGCAT, sharded)
    (snapshot / "transformer" / "diffusion_pytorch_model-00001-of-00002.safetensors").unlink()
    message = refused(on_cpu("longcat"))
    assert "00001-of-00002" in message
    assert f"hf download {LONGCAT.repo} --revision {LONGCAT.revision} --force-download" in message


GONE = [
    "vae", "vae/diffusion_pytorch_model.safetensors", "transformer/diffusion_pytorch_model.safetensors.index.json",
    "transformer/diffusion_pytorch_model-00001-of-00002.safetensors", "tokenizer/tokenizer.json",
    "tokenizer/tokenizer_config.json", "text_processor/preprocessor_config.json", "vae/config.json",
]  # fmt: skip


@pytest.mark.parametrize("gone", GONE)
def test_what_is_missing_in_the_cache_is_fetched(files, cache, sharded, monkeypatch, gone):
    """Another program fetched a part of the repository, or was stopped."""
    snapshot = cache(LONGCAT, sharded)
    lost, real = snapshot / gone, sources.snapshot_download
    shutil.rmtree(lost) if lost.is_dir() else lost.unlink()

    def hub(**how):
        if how.get("local_files_only"):
            return real(**how)
        shutil.copytree(sharded, snapshot, dirs_exist_ok=True)
        return str(snapshot)

    monkeypatch.setattr(sources, "snapshot_download", hub)
    load(on_cpu("longcat"))


def test_what_is_missing_in_the_cache_wants_a_connection_where_there_is_none(files, cache, monkeypatch):
    """huggingface_hub hands out what there is of a snapshot where it cannot ask."""
    snapshot, real = cache(LONGCAT, files / "longcat"), sources.snapshot_download
    shutil.rmtree(snapshot / "transformer")
    monkeypatch.setattr(sources, "snapshot_download", lambda **how: real(**how | {"local_files_only": True}))
    message = refused(on_cpu("longcat"))
    assert "no folder 'transformer'" in message
    assert "Connect this machine" in message


def test_a_missing_part_names_where_it_comes_from(files, tmp_path):
    copy = shutil.copytree(files / "longcat", tmp_path / "copy")
    shutil.rmtree(copy / "text_processor")
    message = refused(on_cpu("longcat", copy))
    assert LONGCAT.repo in message


def test_our_names_and_the_hubs_are_both_read(files, tmp_path):
    copy = shutil.copytree(files / "longcat", tmp_path / "copy")
    (copy / "text_encoder").rename(copy / "mllm")
    (copy / "text_processor").rename(copy / "processor")
    assert load(on_cpu("longcat", copy)).revision == load(on_cpu("longcat", files / "longcat")).revision


def test_a_copy_of_flux_with_its_own_readers_beside_internvl(files, tmp_path):
    """FLUX's repository has CLIP under the names `text_encoder` and `tokenizer`."""
    copy = shutil.copytree(files / "paper", tmp_path / "copy")
    for name in ("tokenizer", "text_encoder"):
        shutil.copytree(files / "longcat" / name, copy / name)
    found = locate(on_cpu("paper", copy), {})
    assert {found[name].path for name in ("mllm", "tokenizer", "processor")} == {copy / "mllm"}
    shutil.rmtree(copy / "mllm")
    message = refused(on_cpu("paper", copy), adapter=files / "adapter")
    assert str(copy / "mllm") in message, "CLIP was taken for the language model"
    assert MLLM.repo in message


@pytest.mark.parametrize("name", ["vae/diffusion_pytorch_model.safetensors", "vae/config.json"])
def test_links_to_nothing(files, tmp_path, name):
    """What is left of a snapshot that was copied out of the hub's cache without the files it points to."""
    copy = shutil.copytree(files / "longcat", tmp_path / "copy")
    (copy / name).unlink()
    (copy / name).symlink_to("../../../blobs/gone")
    message = refused(on_cpu("longcat", copy))
    assert str(copy / "vae") in message
    assert "Restore it" in message


def test_a_revision_beside_a_folder_is_no_choice(files):
    message = refused(on_cpu("longcat"), folder=files / "longcat", revisions={LONGCAT.repo: "main"})
    assert f"{LONGCAT.repo}@main" in message
    assert str(files / "longcat") in message


def test_the_embedded_layout_needs_nothing_of_the_hub(folder):
    found = locate(tiny_profile(folder), {})
    assert {part.path for part in found.values()} == {
        Path(folder) / name for name in ("mllm", "framing", "aggregation", "transformer", "vae")
    }


@pytest.mark.parametrize("name", ["paper", "longcat"])
def test_a_card_is_needed_and_said_so(files, monkeypatch, name):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    adapter = files / "adapter" if PROFILES[name].adapter else None
    message = refused(PROFILES[name], folder=files / name, adapter=adapter)
    assert "is to run on cuda" in message
    assert "CUDA" in message
    assert "--device cpu" in message


@pytest.mark.parametrize("found", ["0.47.1", None])
def test_an_old_bitsandbytes(files, monkeypatch, found):
    def version(name):
        if found is None:
            raise sources_missing(name)
        return found

    from importlib.metadata import PackageNotFoundError as sources_missing

    monkeypatch.setattr("squeeze.models.loading.version", version)
    message = refused(replace(on_cpu("longcat", files / "longcat"), mllm_8bit=True))
    assert "bitsandbytes 0.48 or newer" in message
    assert (found or "missing") in message
    assert "pip install" in message


@pytest.mark.parametrize("name", ["paper", "longcat"])
def test_8_bit_leaves_vision_alone_and_drops_the_head(files, name):
    adapter = files / "adapter" if PROFILES[name].adapter else None
    profile = replace(on_cpu(name, files / name), mllm_8bit=True, dtype="bfloat16")
    models = load(profile, adapter=adapter)
    mllm = models.mllm
    kinds = {path: type(module).__name__ for path, module in mllm.model.named_modules()}
    eight = {path.split(".")[0] for path, kind in kinds.items() if kind == "Linear8bitLt"}
    assert eight == {"language_model"}, f"8-bit reaches {eight}"
    assert not [path for path in kinds if "lm_head" in path]
    linear = [path for path, kind in kinds.items() if kind == "Linear"]
    assert linear
    assert not [path for path in linear if path.startswith("language_model")], "some layers were left out"
    thresholds = {part.state.threshold for part in mllm.model.modules() if type(part).__name__ == "Linear8bitLt"}
    assert thresholds == {6.0}
    rest = [weight.dtype for path, weight in mllm.model.named_parameters() if not path.startswith("language_model")]
    rest += [weight.dtype for part in (models.dit.model, models.vae.model) for weight in part.parameters()]
    assert set(rest) == {torch.bfloat16}, "vision, projector, transformer and VAE are to be in bf16"


@pytest.mark.parametrize("layout", ["as it is", "of older versions", "of newer versions"])
@pytest.mark.parametrize("name", ["paper", "longcat"])
def test_names_of_weights_in_checkpoints_of_any_year(files, tmp_path, name, layout):
    copy = shutil.copytree(files / name, tmp_path / "copy")
    path = copy / ("mllm" if name == "paper" else "text_encoder") / "model.safetensors"
    state = {key.removeprefix("model."): value for key, value in load_file(path).items()}
    inside = {key.replace("language_model.model.", "language_model."): value for key, value in state.items()}
    if name == "longcat":
        named = ("language_model.", "visual.", "lm_head")
        inside = {k if k.startswith(named) else f"language_model.{k}": v for k, v in inside.items()}
    older = {"paper": ("language_model.", "language_model.model."), "longcat": ("language_model.", "model.")}[name]
    renamed = {
        "as it is": lambda key: key,
        "of older versions": lambda key: key.replace(*older, 1),
        "of newer versions": lambda key: key if key.startswith("lm_head") else f"model.{key}",
    }[layout]
    if layout != "as it is":
        save_file({renamed(key): value for key, value in inside.items()}, path, metadata={"format": "pt"})
    adapter = files / "adapter" if PROFILES[name].adapter else None
    ours, theirs = (load(on_cpu(name, root), adapter=adapter).mllm.model.state_dict() for root in (copy, files / name))
    assert ours.keys() == theirs.keys()
    assert all((ours[key] == theirs[key]).all() for key in ours), "weights were lost on the way"
