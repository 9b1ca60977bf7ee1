"""Small corpora in the shapes in which their authors publish them, with the faults that those have."""

import json
import pickle
from pathlib import Path

from PIL import Image

HOW2SIGN = "VIDEO_ID\tVIDEO_NAME\tSENTENCE_ID\tSENTENCE_NAME\tSTART_REALIGNED\tEND_REALIGNED\tSENTENCE"
PHOENIX = "name|video|start|end|speaker|orth|translation"


def write(path: Path, text: str, *, newline: str = "\n", bom: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((b"\xef\xbb\xbf" if bom else b"") + text.replace("\n", newline).encode())
    return path


def video(path: Path, content: bytes = b"a video") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def frames(folder: Path, count: int, ending: str = "png", size=(21, 26)) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, count + 1):
        Image.new("RGB", size, (20 * (number % 12),) * 3).save(folder / f"images{number:04d}.{ending}")
    return folder


def how2sign(root: Path, *, long_videos: bool = False, missing: int = 1) -> Path:
    """Ten sentences of each of two videos to train, four to test on each other; `missing` clips are not there.

    One text has a tab in it, one marks that are not closed, one is quoted as pandas does it. The table to train has a
    BOM, the one of val CRLF.
    """
    texts = ["And I call them decorative elements.", 'He said "hello', '"She said ""stop"" twice."', "with\ta tab",
             "Great.", "Great.", "7 inches", "don't", "a; b, c", "the last one"]  # fmt: skip
    count = {"train": 20, "val": 4, "test": 4}
    for split, sentences in count.items():
        rows = [HOW2SIGN]
        for number in range(sentences):
            short = f"{split[:2]}{number // 10}BL0rO5e-8"
            name, sentence = f"{short}-5-rgb_front", f"{short}_{number}-5-rgb_front"
            start = 10 * (number % 10) + 0.5
            text = texts[number % 10] if number < 10 else f"sentence {number} of {split}"
            rows.append(f"{short}\t{name}\t{short}_{number}\t{sentence}\t{start}\t{start + 4.25}\t{text}")
            if long_videos:
                video(root / f"{split}_raw_videos" / f"{name}.mp4")
            elif number >= missing or split != "train":
                video(root / f"{split}_rgb_front_clips" / "raw_videos" / f"{sentence}.mp4")
        write(root / f"how2sign_realigned_{split}.csv", "\n".join(rows) + "\n", bom=split == "train",
              newline="\r\n" if split == "val" else "\n")  # fmt: skip
    return root


def phoenix14t(root: Path, clips=(("train", 6), ("dev", 2), ("test", 2)), pictures: int = 5) -> Path:
    """Weather forecasts as folders of frames, in the release's own folders; the first broadcast is in every split."""
    home = root / "PHOENIX-2014-T-release-v3" / "PHOENIX-2014-T"
    first = {"train": 6690, "dev": 7690, "test": 8690}
    for split, count in clips:
        rows = [PHOENIX]
        for number in range(count):
            month = "April" if number == 0 else {"train": "April", "dev": "May", "test": "June"}[split]
            name = f"{number + 1:02d}{month}_2010_Thursday_heute-{first[split] + number}"
            text = 'im "süden' if number == 1 else f"und nun die wettervorhersage für morgen den {number} . {split}"
            rows.append(f"{name}|{name}/1/*.png|-1|-1|Signer{number % 3 + 1:02d}|JETZT WETTER MORGEN {number}|{text}")
            frames(home / "features" / "fullFrame-210x260px" / split / name, pictures + number)
        write(home / "annotations" / "manual" / f"PHOENIX-2014-T.{split}.corpus.csv", "\n".join(rows) + "\n")
    return root


def csl_daily(root: Path, *, protocol: int = 4, signer=int) -> Path:
    """Six clips; the table of splits has one that has no annotation, and the annotations one that has no split."""
    texts = ["他今天去学校。", "我有3个苹果", "你好", "今天星期几", "下雨了", "谢谢"]
    info = [
        {"name": f"S{number:06d}_P{number % 2:04d}_T00", "signer": signer(number % 2), "length": 4,
         "label_gloss": ["他", "今天"], "label_char": list(text), "label_word": [text], "label_postag": ["r"]}
        for number, text in enumerate([*texts, "多余"])
    ]  # fmt: skip
    label = root / "sentence_label"
    label.mkdir(parents=True)
    (label / "csl2020ct_v2.pkl").write_bytes(pickle.dumps({"info": info, "gloss_map": ["他"]}, protocol))
    splits = ["train", "train", "train", "dev", "test", "test"]
    lines = ["name|split", *(f"{entry['name']}|{split}" for entry, split in zip(info, splits, strict=False))]
    write(label / "split_1.txt", "\n".join([*lines, "S000005_P0004_T00|train"]) + "\n")
    for entry in info:
        frames(root / "sentence" / "frames_512x512" / entry["name"], 4, "jpg", (16, 16))
    return root


def openasl(root: Path) -> Path:
    """Three videos, one of them gone from the web; times as clocks, boxes, a stray mark, CRLF."""
    header = "vid\tyid\tstart\tend\traw-text\ttokenized-text\tgloss\tsplit"
    rows, boxes = [header], {}
    for number in range(24):
        yid = f"video{number % 2:06d}" if number < 23 else "goneXXXXXXX"
        start, end = f"00:0{number % 6}:01.500", f"00:0{number % 6}:04.000"
        vid = f"{yid}-{start}-{number}"
        split = "train" if number < 18 or number == 23 else "valid" if number < 20 else "test"
        rows.append(f'{vid}\t{yid}\t{start}\t{end}\tThe "news {number}\tthe news\t\t{split}')
        boxes[vid] = [-0.1, 0.0, 0.6, 1.0] if number else [0.5, 0.5, 0.5, 0.5]
    for yid in ("video000000", "video000001"):
        video(root / "raw-video" / f"{yid}.mp4")
    write(root / "data" / "openasl-v1.0.tsv", "\n".join(rows) + "\n", newline="\r\n")
    write(root / "data" / "bbox-v1.0.json", json.dumps(boxes), bom=True)
    return root


VTT = """WEBVTT
Kind: captions
Language: en

00:00:01.000 --> 00:00:03.500 align:start position:0%
>> DR. SMITH: Hello,
<i>everyone</i>&nbsp;&amp; welcome.

NOTE a remark

00:00:04.000 --> 00:00:04.200
Too short.

2
00:00:05.000 --> 00:00:08.000
[MUSIC] (laughs) ♪

01:02.500 --> 01:04.000
- I'm (Deaf), too.
"""
SRT = """\ufeff1
00:00:00,500 --> 00:00:02,000
First line
second line

2
00:00:02,500 --> 00:01:40,000
A very long one
"""
JSON3 = {"events": [
    {"tStartMs": 0, "dDurationMs": 500000, "id": 1},
    {"tStartMs": 1200, "dDurationMs": 2000, "segs": [{"utf8": "NARRATOR: The sign"}, {"utf8": " for tea\n"}]},
    {"tStartMs": 4000, "dDurationMs": 2000, "segs": [{"utf8": "x" * 301}]},
]}  # fmt: skip
HEARD = "WEBVTT\n\n00:00:00.080 --> 00:00:02.000\nso<00:00:00.400><c> today</c>\n"


def youtube_asl(root: Path, *, gone: bool = False) -> Path:
    """Four videos with captions of each kind, one of them heard by a machine; perhaps one that is gone."""
    ids = ["-Abcdefgh01", "bbbbbbbbbb2", "cccccccccc3", "dddddddddd4"]
    write(root / "youtube_asl_video_ids.txt", "\n".join([*ids, ids[0]] + ["gone000000_"] * gone) + "\n")
    for name in ids:
        video(root / "videos" / f"{name}.mp4")
    write(root / "captions" / f"{ids[0]}.en.vtt", VTT)
    write(root / "captions" / f"{ids[0]}.es.vtt", "WEBVTT\n\n00:00:01.000 --> 00:00:03.500\nHola\n")
    write(root / "captions" / f"{ids[1]}.srt", SRT, newline="\r\n")
    write(root / "captions" / f"A title with dots... [{ids[2]}].en-US.json3", json.dumps(JSON3))
    write(root / "captions" / f"{ids[3]}.en.vtt", HEARD)
    return root
