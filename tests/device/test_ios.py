"""Transport `ios` against a stand-in of the `pymobiledevice3` command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from melt_core.errors import DeviceError, InvalidArgumentError, StorageError, TransientDeviceError
from melt_core.transports import IosTransport, RemotePath

UDID = "00008110-000A1B2C3D4E801E"
BUNDLE = "org.melt-core.agent"
TOOL = Path(__file__).parents[1] / "fakes/pymobiledevice3.py"


class Phone:
    """The folder that stands for the device."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.documents = root / "Documents"
        (self.documents / "models").mkdir(parents=True)
        self.describe()

    def describe(self, **faults: Any) -> None:
        battery = {"InstantAmperage": -312, "Temperature": 2940, "Voltage": 4120, "IsCharging": False}
        description = {"udid": UDID, "bundle": BUNDLE, "battery": battery, **faults}
        (self.root / "device.json").write_text(json.dumps(description))


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Phone:
    root = tmp_path / "ios"
    root.mkdir()
    monkeypatch.setenv("FAKE_IOS", str(root))
    return Phone(root)


@pytest.fixture
def ios(phone: Phone) -> IosTransport:
    return IosTransport(UDID, tool=[sys.executable, str(TOOL)])


def test_files_go_in_and_out(phone: Phone, ios: IosTransport, tmp_path: Path) -> None:
    # GIVEN a file with a name that a shell could read as more
    source = tmp_path / "it's; $(touch PWNED) -x.gguf"
    source.write_bytes(b"weights" * 1000)
    path = RemotePath(("models", source.name))
    # WHEN it is pushed, pulled and removed, THEN it is the same
    pushed = ios.push(source, path)
    assert (phone.documents / "models" / source.name).read_bytes() == source.read_bytes()
    pulled = ios.pull(path, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == source.read_bytes()
    assert pushed.sha256 == pulled.sha256
    ios.remove(path)
    ios.remove(path)
    assert not list((phone.documents / "models").iterdir())


def test_a_push_that_arrives_damaged_is_removed(phone: Phone, ios: IosTransport, tmp_path: Path) -> None:
    phone.describe(cut_push_at=10)
    source = tmp_path / "x"
    source.write_bytes(b"more than ten bytes")
    with pytest.raises(TransientDeviceError, match="arrived damaged"):
        ios.push(source, RemotePath.of("models/x"))
    assert not (phone.documents / "models/x").exists()


def test_an_endless_file_cannot_fill_the_host(phone: Phone, ios: IosTransport, tmp_path: Path) -> None:
    phone.describe(endless_pull=True)
    (phone.documents / "x").write_bytes(b"x")
    with pytest.raises(DeviceError, match="more than the 3000000 bytes allowed"):
        ios.pull(RemotePath.of("x"), tmp_path / "y", max_bytes=3_000_000)
    assert not (tmp_path / "y").exists()
    assert not list(tmp_path.glob(".melt*"))


def test_a_file_just_over_the_bound_is_refused(phone: Phone, ios: IosTransport, tmp_path: Path) -> None:
    (phone.documents / "x").write_bytes(bytes(1001))
    with pytest.raises(DeviceError, match="more than the 1000 bytes allowed"):
        ios.pull(RemotePath.of("x"), tmp_path / "y", max_bytes=1000)
    assert ios.pull(RemotePath.of("x"), tmp_path / "y", max_bytes=1001).size_bytes == 1001


def test_the_app_is_launched_with_its_arguments(phone: Phone, ios: IosTransport) -> None:
    # WHEN the app is launched with arguments and an environment that a shell could read as more
    value = "it's; $(touch PWNED)"
    assert ios.launch(["a b; $(touch PWNED)", "-x"], environment={"MELT_X": value}) == 4711
    # THEN they arrive as they were
    launched = json.loads((phone.root / "launched.json").read_text())
    assert launched == {"arguments": ["a b; $(touch PWNED)", "-x"], "environment": {"MELT_X": value}}
    with pytest.raises(InvalidArgumentError, match="environment variable"):
        ios.launch(environment={"A=B": "x"})


def test_what_is_wrong_is_said(phone: Phone, ios: IosTransport, tmp_path: Path) -> None:
    source = tmp_path / "x"
    source.write_bytes(b"x")
    with pytest.raises(DeviceError, match=r"launch org\.melt-core\.agent once"):
        ios.push(source, RemotePath.of("no/such/folder/x"))
    with pytest.raises(DeviceError, match="OBJECT_NOT_FOUND"):
        ios.pull(RemotePath.of("nothing"), tmp_path / "y")
    with pytest.raises(StorageError, match="cannot read"):
        ios.push(tmp_path / "nothing", RemotePath.of("x"))
    with pytest.raises(StorageError, match="cannot write"):
        ios.pull(RemotePath.of("x"), tmp_path / "no/folder")
    phone.describe(usbmuxd="down")
    with pytest.raises(TransientDeviceError, match="usbmuxd"):
        ios.push(source, RemotePath.of("models/x"))
    phone.describe(developer_mode=False)
    with pytest.raises(DeviceError, match="Developer Mode") as caught:
        ios.launch()
    assert not isinstance(caught.value, TransientDeviceError)
    with pytest.raises(TransientDeviceError, match="not connected"):
        IosTransport("11118110-000A1B2C3D4E801E", tool=[sys.executable, str(TOOL)]).launch()
    with pytest.raises(DeviceError, match=r"other\.app installed"):
        IosTransport(UDID, bundle_id="other.app", tool=[sys.executable, str(TOOL)]).pull(
            RemotePath.of("x"), tmp_path / "z"
        )
    with pytest.raises(DeviceError, match="pip install pymobiledevice3"):
        IosTransport(UDID, tool=["no-such-tool-here"]).launch()


def test_what_ios_cannot_do_is_said(ios: IosTransport, tmp_path: Path) -> None:
    for call in (
        lambda: ios.run(["uname"]),
        lambda: ios.list(RemotePath()),
    ):
        with pytest.raises(DeviceError, match="iOS has no shell"):
            call()
    with pytest.raises(InvalidArgumentError, match="no pushed programs"):
        ios.push(tmp_path / "x", RemotePath.of("x"), executable=True)


def test_the_hosts_tool_can_be_asked(phone: Phone, ios: IosTransport) -> None:
    assert json.loads(ios.call(["diagnostics", "battery", "single"]).text)["Voltage"] == 4120


@pytest.mark.parametrize("udid", ["", "short", "--udid", "a b c d e f g h", "x" * 65, "$(touch x)00000", "a\nbcdefgh"])
def test_no_udid(udid: str) -> None:
    with pytest.raises(InvalidArgumentError, match="UDID"):
        IosTransport(udid)


@pytest.mark.parametrize("bundle", ["", "-x", "a b", "a;b", "a/b"])
def test_no_bundle(bundle: str) -> None:
    with pytest.raises(InvalidArgumentError, match="bundle"):
        IosTransport(UDID, bundle_id=bundle)
