"""Atlases by name: fetched once, named in the corpus, and explained where there is no network."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scans import AFFINE, SHAPE, corpus, dataset, write_fmriprep_run
from web import serving

from fmriscale.common.errors import UserError
from fmriscale.config import FeatureConfig
from fmriscale.config.paths import is_atlas_name
from fmriscale.ingest.build import build
from fmriscale.ingest.read import atlases
from fmriscale.ingest.read.features import load_features

_FSL = '<atlas><data><label index="0">Left Pole</label><label index="1">Right Pole</label></data></atlas>'
_LUT = "0 NONE 0 0 0 0\n1 Visual 120 18 134 0\n2 Limbic 70 130 180 0\n"
_XML = (
    "<a><data><label><index>1</index><name>Precentral_L</name></label>"
    "<label><index>2</index><name>Precentral_R</name></label></data></a>"
)
TABLES = {
    "Schaefer2018_400Parcels_7Networks_order.txt": "1\tLH_Vis_1\t1\t2\t3\t0\n2\tLH_Vis_2\t1\t2\t3\t0\n",
    "Schaefer2018_100Parcels_17Networks_order.txt": "1\tLH_A\t1\t2\t3\t0\n2\tLH_B\t1\t2\t3\t0\n",
    "AAL3v1.xml": _XML,
    "AAL.xml": _XML,
    "ROI_MNI_V4.txt": "a\tPrecentral_L\t1\nb\tPrecentral_R\t2\n",
    "HarvardOxford-Cortical-Lateralized.xml": _FSL,
    "destrieux2009_rois_labels_lateralized.csv": "index,name\n0,Background\n1,L G_front\n2,R G_front\n",
    "destrieux2009.rst": "text",
    "Yeo2011_7Networks_ColorLUT.txt": _LUT,
    "Yeo2011_17Networks_ColorLUT.txt": _LUT,
}
NAMED = {
    "schaefer400": ("LH_Vis_1", "LH_Vis_2"),
    "schaefer100_17networks_2mm": ("LH_A", "LH_B"),
    "aal": ("Precentral_L", "Precentral_R"),
    "aal_spm12": ("Precentral_L", "Precentral_R"),
    "aal_spm5": ("Precentral_L", "Precentral_R"),
    "basc7": ("1", "2"),
    "basc444_asym": ("1", "2"),
    "yeo7": ("Visual", "Limbic"),
    "yeo17_thin": ("Visual", "Limbic"),
    "harvard_oxford_cortl-maxprob-thr25-2mm": ("Left Pole", "Right Pole"),
    "destrieux": ("L G_front", "R G_front"),
}


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """No network, and data folders of the test's own."""
    monkeypatch.delenv("NILEARN_SHARED_DATA", raising=False)
    monkeypatch.setenv("NILEARN_DATA", str(tmp_path / "nilearn"))
    monkeypatch.setenv("FMRISCALE_CACHE", str(tmp_path / "cache"))
    for proxy in ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "http_proxy", "https_proxy", "ftp_proxy"):
        monkeypatch.setenv(proxy, "http://127.0.0.1:9")
    for kept in (atlases.fetch_atlas, atlases._fetchers, load_features):
        kept.cache_clear()
    return tmp_path / "nilearn"


_YEO = [
    *("FSL_MNI152_FreeSurferConformed_1mm.nii.gz", "Yeo2011_7Networks_ColorLUT.txt"),
    *("Yeo2011_17Networks_ColorLUT.txt",),
    *(
        f"Yeo2011_{n}Networks_MNI152_FreeSurferConformed1mm{end}.nii.gz"
        for n in (7, 17)
        for end in ("", "_LiberalMask")
    ),
]
_BASC = "basc_multiscale_2015/template_cambridge_basc_multiscale_nii"
_OXFORD = "fsl/data/atlases/HarvardOxford"
FILES = {
    "schaefer400": [
        "schaefer_2018/Schaefer2018_400Parcels_7Networks_order.txt",
        "schaefer_2018/Schaefer2018_400Parcels_7Networks_order_FSLMNI152_1mm.nii.gz",
    ],
    "schaefer100_17networks_2mm": [
        "schaefer_2018/Schaefer2018_100Parcels_17Networks_order.txt",
        "schaefer_2018/Schaefer2018_100Parcels_17Networks_order_FSLMNI152_2mm.nii.gz",
    ],
    "aal": ["aal_3v2/AAL3/AAL3v1.nii", "aal_3v2/AAL3/AAL3v1.xml"],
    "aal_spm12": ["aal_SPM12/aal/atlas/AAL.nii", "aal_SPM12/aal/atlas/AAL.xml"],
    "aal_spm5": ["aal_SPM5/aal_for_SPM5/ROI_MNI_V4.nii", "aal_SPM5/aal_for_SPM5/ROI_MNI_V4.txt"],
    "basc7": [f"{_BASC}_sym/template_cambridge_basc_multiscale_sym_scale007.nii.gz"],
    "basc444_asym": [f"{_BASC}_asym/template_cambridge_basc_multiscale_asym_scale444.nii.gz"],
    "yeo7": [f"yeo_2011/Yeo_JNeurophysiol11_MNI152/{name}" for name in _YEO],
    "yeo17_thin": [f"yeo_2011/Yeo_JNeurophysiol11_MNI152/{name}" for name in _YEO],
    "harvard_oxford_cortl-maxprob-thr25-2mm": [
        f"{_OXFORD}/HarvardOxford-cortl-maxprob-thr25-2mm.nii.gz",
        f"{_OXFORD}-Cortical-Lateralized.xml",
    ],
    "destrieux": [
        f"destrieux_2009/destrieux2009{end}"
        for end in ("_rois_labels_lateralized.csv", "_rois_lateralized.nii.gz", ".rst")
    ],
}
"""Where nilearn keeps an atlas, below its data folder."""


def put(path: Path) -> None:
    """Write what a published file of this name holds, in small: two labels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name in TABLES:
        path.write_text(TABLES[path.name])
        return
    labels = np.zeros(SHAPE, np.int16)
    labels[2:4, 2:6, 2:5], labels[5:7, 2:6, 2:5] = 1, 2
    nib.Nifti1Image(labels, AFFINE).to_filename(path)


@pytest.mark.parametrize(("name", "labels"), NAMED.items())
def test_without_a_network_the_refusal_says_how_to_get_an_atlas(name, labels, alone):
    features = FeatureConfig(name="parcels", labels_img=name)
    with pytest.raises(UserError) as refusal:
        load_features(features)
    line, (fetcher, _) = str(refusal.value), atlases._fetchers()[name]
    assert "\n" not in line and f"datasets import *; fetch_atlas_{fetcher}(" in line and str(alone) in line
    for file in FILES[name]:  # as that command leaves them
        put(alone / file)
    space = load_features(features).space
    assert (space.n_features, space.labels) == (2, labels)
    assert space.atlas is not None and space.atlas.name == name


def test_an_atlas_that_is_damaged_is_named_with_its_folder(alone):
    for file in FILES["schaefer400"]:
        put(alone / file)
    (alone / FILES["schaefer400"][0]).write_text("<html>log in</html>")
    with pytest.raises(UserError, match=rf"nor read in {alone} \(\w+\); run python -c .*n_rois=400"):
        atlases.fetch_atlas("schaefer400")


def test_an_atlas_comes_from_its_server_once(alone, tmp_path, monkeypatch):
    for file in FILES["schaefer100_17networks_2mm"]:
        put(tmp_path / "server" / Path(file).name)
    for proxy in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(proxy)
    with serving(tmp_path / "server") as server:
        monkeypatch.setattr(atlases, "_SCHAEFER", f"{server.url}/")
        atlases._fetchers.cache_clear()
        for _ in range(2):
            atlases.fetch_atlas.cache_clear()
            atlas = atlases.fetch_atlas("schaefer100_17networks_2mm")
        assert server.requests.total() == 2
    assert atlas.labels == {0: "Background", 1: "LH_A", 2: "LH_B"} and atlas.path.is_relative_to(alone)


@pytest.mark.parametrize(
    ("name", "near"),
    {
        "schaeffer400": "did you mean schaefer400",
        "schaefer450": "did you mean schaefer",
        "schaefer400_7_2mm": "did you mean schaefer400_",
        "harvard_oxford": "did you mean harvard_oxford_",
        "difumo": "docs/sharding.md lists them",
        "AAL": "did you mean aal",
    }.items(),
)
def test_an_unknown_name_is_told_with_the_nearest(name, near):
    with pytest.raises(UserError, match=f"labels_img: {name}: neither a file nor an atlas .*{near}"):
        load_features(FeatureConfig(name="parcels", labels_img=name))


def test_what_is_a_name_and_what_a_path(tmp_path):
    assert all(is_atlas_name(name, tmp_path) for name in NAMED)
    assert not any(
        is_atlas_name(text) for text in ("a.nii", "./schaefer400", "$ATLAS", "~/a", "s3://a/b", "")
    )
    assert not is_atlas_name("s3://bucket/folder") and not is_atlas_name("$HOME/a.nii")
    (tmp_path / "schaefer400").touch()
    assert not is_atlas_name("schaefer400", tmp_path)


def test_the_corpus_names_the_atlas(alone, tmp_path, capsys):
    root = tmp_path / "study"
    write_fmriprep_run(root, "01", space="MNI152NLin2009cAsym")
    for file in FILES["schaefer400"]:
        put(alone / file)
    named = FeatureConfig(name="parcels", labels_img="schaefer400")
    image = str(alone / FILES["schaefer400"][1])
    given = FeatureConfig(name="parcels", labels_img=image, labels=["LH_Vis_1", "LH_Vis_2"])
    build(corpus(tmp_path / "named", dataset(root, features=named)))
    assert "schaefer400 lies in MNI152NLin6Asym, runs in MNI152NLin2009cAsym" in capsys.readouterr().err
    build(corpus(tmp_path / "given", dataset(root, features=given)))
    manifests = [json.loads((tmp_path / out / "corpus.json").read_text()) for out in ("given", "named")]
    theirs, ours = (manifest["spaces"]["parcels"] for manifest in manifests)
    atlas = ours.pop("atlas")
    assert ours == theirs and (atlas["name"], atlas["template"]) == ("schaefer400", "MNI152NLin6Asym")
    assert "labels_img: schaefer400\n" in (tmp_path / "named" / "recipe.yaml").read_text()
    shard = "toy/toy-000000.tar"
    assert (tmp_path / "named" / shard).read_bytes() == (tmp_path / "given" / shard).read_bytes()
