"""From a video file to the streams that training reads: face, hands and pose of one signer.

from slt_jax.media.extract_many import Job, extract_videos
from slt_jax.media.settings import ExtractionSettings

records = extract_videos([Job(path, video_id)], out_root, ExtractionSettings(fps=25), workers=2)
"""
