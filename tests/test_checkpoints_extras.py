"""Signatures, the mirror in MLflow, the Hub: against stand-ins of their interfaces, and the packages where they are installed."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from checkpoint_toys import ARM, WHO, add_policy, make_promotion, pass_evaluation, write_policy

from checkpoints import hub, mlflow_mirror
from checkpoints.__main__ import main
from checkpoints.agent import AgentConfig
from checkpoints.directory import read_manifest
from checkpoints.robot_cache import RobotCache
from checkpoints.signing import SignatureError, sign_checkpoint, signature_file, verify_signature
from core.errors import CheckpointError, ConfigError


@pytest.fixture
def promotion(tmp_path):
    return make_promotion(tmp_path / "store")


@pytest.fixture
def ids(promotion, tmp_path):
    return [add_policy(promotion, tmp_path, weight) for weight in (1.0, 2.0)]


# -- signatures --------------------------------------------------------------------------------------------------------


class ModelSigning(ModuleType):
    """``model_signing`` with a keyed hash in place of elliptic curves; PEM files are text, ``.pub`` belongs to ``.pem``."""

    class Config:
        def use_elliptic_key_signer(self, *, private_key, password=None):
            self._secret = Path(private_key).read_text()
            if "PRIVATE" not in self._secret:
                raise ValueError("Could not deserialize key data")
            return self

        def use_elliptic_key_verifier(self, *, public_key):
            self._secret = Path(public_key).with_suffix(".pem").read_text()
            return self

        def _digest(self, path):
            return hashlib.sha256(self._secret.encode() + Path(path).read_bytes()).hexdigest()

        def sign(self, model_path, signature_path):
            Path(signature_path).write_text(self._digest(model_path))

        def verify(self, model_path, signature_path):
            if Path(signature_path).read_text() != self._digest(model_path):
                raise ValueError("Signature mismatch")

    def __init__(self):
        super().__init__("model_signing")
        self.signing = self.verifying = SimpleNamespace(Config=self.Config)


@pytest.fixture(params=["stand-in", "model-signing"])
def keys(request, tmp_path, monkeypatch):
    """Two pairs of keys: publisher.pem, publisher.pub, stranger.pem, stranger.pub."""
    if request.param == "stand-in":
        package = ModelSigning()
        monkeypatch.setitem(sys.modules, "model_signing", package)
        monkeypatch.setitem(sys.modules, "model_signing.signing", package.signing)
        monkeypatch.setitem(sys.modules, "model_signing.verifying", package.verifying)
    elif importlib.util.find_spec("model_signing") is None:
        pytest.skip("the extra signing is not installed")
    for name in ("publisher", "stranger"):
        private, public = tmp_path / f"{name}.pem", tmp_path / f"{name}.pub"
        if request.param == "stand-in":
            private.write_text(f"PRIVATE {name}")
            public.write_text(f"PUBLIC {name}")
        else:
            subprocess.run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", private], check=True)
            subprocess.run(["openssl", "ec", "-in", private, "-pubout", "-out", public], check=True, capture_output=True)
    return tmp_path


def test_a_signature_is_of_one_checkpoint_and_one_key(promotion, ids, keys):
    with pytest.raises(SignatureError, match="is not signed"):
        verify_signature(promotion.store, ids[0], keys / "publisher.pub")
    file = sign_checkpoint(promotion.store, ids[0], keys / "publisher.pem")
    assert file == signature_file(promotion.store, ids[0])
    verify_signature(promotion.store, ids[0], keys / "publisher.pub")
    with pytest.raises(SignatureError, match=r"not by the owner of .*stranger"):
        verify_signature(promotion.store, ids[0], keys / "stranger.pub")
    signature_file(promotion.store, ids[1]).write_bytes(file.read_bytes())
    with pytest.raises(SignatureError):
        verify_signature(promotion.store, ids[1], keys / "publisher.pub")
    file.write_bytes(b"{}")
    with pytest.raises(SignatureError):
        verify_signature(promotion.store, ids[0], keys / "publisher.pub")
    with pytest.raises(ConfigError, match=r"no public key at .*nobody\.pub"):
        verify_signature(promotion.store, ids[0], keys / "nobody.pub")


def test_a_damaged_checkpoint_is_not_signed_and_a_wrong_key_replaces_nothing(promotion, ids, keys):
    before = sign_checkpoint(promotion.store, ids[0], keys / "publisher.pem").read_bytes()
    with pytest.raises(ConfigError, match="cannot sign with"):
        sign_checkpoint(promotion.store, ids[0], keys / "publisher.pub")
    assert signature_file(promotion.store, ids[0]).read_bytes() == before
    assert promotion.store.leftovers() == ()
    for blob in (promotion.store.root / "blobs/sha256").iterdir():
        blob.write_bytes(b"")
    with pytest.raises(CheckpointError, match="is damaged"):
        sign_checkpoint(promotion.store, ids[1], keys / "publisher.pem")
    assert not signature_file(promotion.store, ids[1]).exists()


def test_a_robot_with_a_key_pulls_nothing_unsigned_and_keeps_what_it_has(promotion, ids, keys, tmp_path):
    config = AgentConfig(robot="arm1", cache=tmp_path / "robot", max_latency_s=1.0, public_key=keys / "publisher.pub")
    cache = RobotCache(config.cache, promotion.store, config.public_key)
    with pytest.raises(SignatureError):
        cache.pull(ids[0])
    assert not config.cache.exists()
    file = sign_checkpoint(promotion.store, ids[0], keys / "publisher.pem")
    directory, _ = cache.pull(ids[0])
    file.unlink()
    assert cache.pull(ids[0])[0] == directory


def test_signatures_from_the_command_line(promotion, ids, keys, capsys):
    store = ["--store", str(promotion.store.root)]
    assert main(["sign", *store, ids[0], "--private-key", str(keys / "publisher.pem")]) == 0
    assert main(["verify", *store, ids[0], "--public-key", str(keys / "publisher.pub")]) == 0
    assert main(["verify", *store, "--public-key", str(keys / "publisher.pub")]) == 1
    assert f"checkpoint {ids[1][:12]} is not signed" in capsys.readouterr().out


# -- MLflow ------------------------------------------------------------------------------------------------------------


class MlflowClient:
    """The registry's part of ``mlflow.MlflowClient``."""

    def __init__(self):
        self.models, self.versions, self.aliases = [], [], {}

    def search_registered_models(self, filter_string):
        return [SimpleNamespace(name=name) for name in self.models if filter_string == f"name = '{name}'"]

    def create_registered_model(self, name, description=None):
        assert name not in self.models
        self.models.append(name)

    def get_registered_model(self, name):
        assert name in self.models
        return SimpleNamespace(name=name, aliases=dict(self.aliases))

    def search_model_versions(self, filter_string):
        return [SimpleNamespace(**row) for row in self.versions if filter_string == f"name = '{row['name']}'"]

    def create_model_version(self, name, source, tags):
        assert name in self.models
        assert all(isinstance(value, str) for value in tags.values())
        self.versions.append({"name": name, "version": len(self.versions) + 1, "source": source, "tags": tags})
        return SimpleNamespace(**self.versions[-1])

    def set_registered_model_alias(self, name, alias, version):
        assert alias.replace("-", "").replace("_", "").isalnum()
        self.aliases[alias] = int(version)

    def get_model_version_by_alias(self, name, alias):
        return SimpleNamespace(**self.versions[self.aliases[alias] - 1])


@pytest.fixture(params=["stand-in", "mlflow"])
def client(request, tmp_path):
    if request.param == "stand-in":
        return MlflowClient()
    if importlib.util.find_spec("mlflow") is None:
        pytest.skip("the extra mlflow is not installed")
    return mlflow_mirror.connect(f"sqlite:///{tmp_path}/mlflow.db")


def test_aliases_follow_channels_and_nothing_is_registered_twice(promotion, ids, client):
    for checkpoint in ids:
        pass_evaluation(promotion, checkpoint)
    assert mlflow_mirror.mirror_channels(promotion, client, "policies") == ()
    promotion.promote(ids[0], "candidate", **WHO)
    promotion.promote(ids[0], "staging", **WHO)
    first = mlflow_mirror.mirror_channels(promotion, client, "policies")
    assert [(row.alias, row.checkpoint_id, row.version, row.is_changed) for row in first] == [
        ("candidate", ids[0], "1", True),
        ("staging", ids[0], "1", True),
    ]
    assert not any(row.is_changed for row in mlflow_mirror.mirror_channels(promotion, client, "policies"))
    promotion.promote(ids[1], "staging", **WHO)
    moved = mlflow_mirror.mirror_channels(promotion, client, "policies")
    assert [(row.version, row.is_changed) for row in moved] == [("1", False), ("2", True)]
    promotion.rollback("staging", **WHO)
    mlflow_mirror.mirror_channels(promotion, client, "policies")
    shown = client.get_model_version_by_alias("policies", "staging")
    assert shown.tags["checkpoint_id"] == ids[0]
    assert Path(shown.source.removeprefix("file://")) == promotion.store.manifest_file(ids[0])


def test_a_robots_channel_has_an_alias_and_one_that_could_be_two_robots_is_refused(promotion, ids):
    client = MlflowClient()
    swap = {"expected_serial": 0, "action": "promote", **WHO}
    promotion.ledger.swap(f"channel/robot:{ARM.robot}", {"id": ids[0], "previous": ""}, **swap)
    (row,) = mlflow_mirror.mirror_channels(promotion, client, "policies")
    assert row.alias == "robot-arm1"
    promotion.ledger.swap("channel/robot:arm.1", {"id": ids[0], "previous": ""}, **swap)
    with pytest.raises(ConfigError, match=r"'robot:arm\.1' cannot be an MLflow alias"):
        mlflow_mirror.mirror_channels(promotion, client, "policies")


# -- the Hub -----------------------------------------------------------------------------------------------------------


class HubApi:
    """``huggingface_hub.HfApi``: what it was given, by its own parameters' names (checked against the package below)."""

    def __init__(self, folder):
        self.folder, self.calls = folder, []

    def create_repo(self, repo_id, *, private, repo_type, exist_ok):
        self.calls.append(("create_repo", repo_id, private, repo_type, exist_ok))

    def upload_folder(self, *, repo_id, folder_path, commit_message, delete_patterns):
        self.calls.append(("upload_folder", repo_id, commit_message))
        self.folder.mkdir()
        for file in Path(folder_path).iterdir():
            (self.folder / file.name).write_bytes(file.read_bytes())
        return SimpleNamespace(oid="c0ffee", commit_url=f"https://hub/{repo_id}/commit/c0ffee")

    def create_tag(self, repo_id, *, tag, revision, exist_ok):
        self.calls.append(("create_tag", repo_id, tag, revision))


def test_what_is_pushed_is_the_checkpoint_and_a_card_and_comes_back(promotion, ids, tmp_path):
    api = HubApi(tmp_path / "downloaded")
    url = hub.push_checkpoint(promotion.store, ids[0], "ada/reach", api)
    assert url == "https://hub/ada/reach/commit/c0ffee"
    assert api.calls[0] == ("create_repo", "ada/reach", True, "model", True)
    assert api.calls[1][2] == f"toy policy, version 1, checkpoint {ids[0][:12]}"
    assert api.calls[2] == ("create_tag", "ada/reach", ids[0][:12], "c0ffee")
    card = (api.folder / "README.md").read_text()
    for text in (ids[0], "dx [m], gripper [1]", "gripper positive_opens", "5 Hz, chunks of 4", "wrist 12 x 16 px"):
        assert text in card
    (api.folder / ".cache").mkdir()
    elsewhere = make_promotion(tmp_path / "elsewhere").store
    again = elsewhere.add(api.folder)
    assert elsewhere.manifest(again).files == promotion.store.manifest(ids[0]).files
    assert elsewhere.manifest(again).contract == promotion.store.manifest(ids[0]).contract


def test_the_stand_in_takes_what_the_package_takes():
    import inspect

    huggingface_hub = pytest.importorskip("huggingface_hub")
    for name in ("create_repo", "upload_folder", "create_tag"):
        theirs = inspect.signature(getattr(huggingface_hub.HfApi, name)).parameters
        ours = inspect.signature(getattr(HubApi, name)).parameters
        assert set(ours) <= set(theirs)
    assert isinstance(hub.connect(), huggingface_hub.HfApi)


@pytest.mark.parametrize("repository", ["", "reach", "ada/", "/reach", "ada/reach/v1"])
def test_a_repository_needs_an_owner(promotion, ids, tmp_path, repository):
    with pytest.raises(ConfigError, match="expected OWNER/NAME"):
        hub.push_checkpoint(promotion.store, ids[0], repository, HubApi(tmp_path / "out"))


def test_a_refusal_of_the_hub_is_one_line_and_a_damaged_checkpoint_is_not_uploaded(promotion, ids, tmp_path):
    class Closed(HubApi):
        def create_repo(self, repo_id, **_):
            raise OSError("401 Unauthorized\nInvalid token")

    with pytest.raises(ConfigError, match="did not take ada/reach: 401 Unauthorized Invalid token"):
        hub.push_checkpoint(promotion.store, ids[0], "ada/reach", Closed(tmp_path / "out"))
    for blob in (promotion.store.root / "blobs/sha256").iterdir():
        blob.write_bytes(b"")
    api = HubApi(tmp_path / "out")
    with pytest.raises(CheckpointError, match="is damaged"):
        hub.push_checkpoint(promotion.store, ids[0], "ada/reach", api)
    assert api.calls == []


@pytest.mark.parametrize(
    "words", [["list"], ["verify"], ["audit"], ["promote", "abcdef", "staging", "--reason", "r", "--by", "ada"]]
)
def test_a_store_that_is_not_there_is_said_to_be_so_and_not_made(tmp_path, capsys, words):
    missing = tmp_path / "elsewhere"
    assert main([words[0], "--store", str(missing), *words[1:]]) == 2
    assert capsys.readouterr().err.startswith(f"error: no checkpoint store at {missing}: expected a folder; ")
    assert not missing.exists()


# -- without the packages ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("package", "command", "extra"),
    [
        ("model_signing", ["sign", "ID", "--private-key", "k.pem"], "signing"),
        ("mlflow", ["mirror", "--uri", "sqlite:///m.db"], "mlflow"),
        ("huggingface_hub", ["push", "ID", "--repository", "ada/reach"], "hub"),
    ],
)
def test_a_missing_package_is_one_line_that_names_its_extra(promotion, ids, monkeypatch, capsys, package, command, extra):
    monkeypatch.setitem(sys.modules, package, None)
    words = [ids[0] if word == "ID" else word for word in command]
    assert main([words[0], "--store", str(promotion.store.root), *words[1:]]) == 2
    printed = capsys.readouterr().err
    assert f"pip install 'viva-recap[{extra}]'" in printed
    assert printed.count("\n") == 1
    project = (Path(__file__).parent.parent / "pyproject.toml").read_text()
    assert f"\n{extra} = [" in project


def test_a_model_card_and_hidden_files_are_not_part_of_a_checkpoint(promotion, tmp_path):
    directory = write_policy(tmp_path / "policy", 5.0)
    plain = promotion.store.add(directory)
    (directory / "README.md").write_text("about")
    (directory / ".gitattributes").write_text("")
    assert promotion.store.add(directory) == plain
    assert json.loads(promotion.store.read_file(plain, "manifest.json")) == read_manifest(directory)
