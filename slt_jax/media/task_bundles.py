"""MediaPipe's models as its JavaScript reads them: bundles (`.task`) of the models in its Python package.

The package `@mediapipe/tasks-vision` has no models. Those in the Python package are of the same architectures, but some
lack the metadata that tells how their pictures are scaled.
"""

from pathlib import Path

from slt_jax.errors import UserError

# {bundle: {its model: the package's}}
BUNDLES = {
    "holistic_landmarker.task": {
        "pose_detector.tflite": "pose_detection/pose_detection.tflite",
        "pose_landmarks_detector.tflite": "pose_landmark/pose_landmark_full.tflite",
        "hand_landmarks_detector.tflite": "hand_landmark/hand_landmark_full.tflite",
        "hand_roi_refinement.tflite": "holistic_landmark/hand_recrop.tflite",
        "face_detector.tflite": "face_detection/face_detection_short_range.tflite",
        "face_landmarks_detector.tflite": "face_landmark/face_landmark.tflite",
    },
    "hand_landmarker.task": {
        "hand_detector.tflite": "palm_detection/palm_detection_full.tflite",
        "hand_landmarks_detector.tflite": "hand_landmark/hand_landmark_lite.tflite",
    },
}
SCALED = "TFLITE_METADATA"  # what the file of a model with metadata says


def write_bundles(folder: Path) -> None:
    """Write the bundles into `folder`. Raises UserError if mediapipe is not installed."""
    try:
        import mediapipe
        from mediapipe.tasks.python.metadata.metadata_writers.metadata_writer import MetadataWriter
        from mediapipe.tasks.python.metadata.metadata_writers.model_asset_bundle_utils import create_model_asset_bundle
    except ImportError:
        raise UserError('the models of MediaPipe are in its package: pip install "slt-jax[media]"') from None
    modules = Path(mediapipe.__file__).parent / "modules"
    folder.mkdir(parents=True, exist_ok=True)
    for bundle, models in BUNDLES.items():
        contents = {}
        for name, source in models.items():
            content = (modules / source).read_bytes()
            if SCALED.encode() not in content:
                # Pixels from 0 to 255 become numbers from 0 to 1.
                content = bytes(MetadataWriter.create(bytearray(content)).add_image_input([0.0], [255.0]).populate()[0])
            contents[name] = content
        create_model_asset_bundle(contents, str(folder / bundle))
