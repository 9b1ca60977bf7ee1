"""A video file becomes the streams that training reads: face, hands and pose of one signer.

from slt_jax.media.run import Job, extract_videos
from slt_jax.media.settings import Settings

records = extract_videos([Job(path, video_id)], out_root, Settings(fps=25), workers=2)
"""
