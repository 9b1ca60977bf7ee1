"""Small corpora in the shapes in which their authors publish them, with the faults that those have."""

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
