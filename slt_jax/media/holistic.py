"""mediapipe's Holistic, taken apart: the pose of each picture first, then only those of its parts that are asked for.

Parts are the face and the hands, by their streams' names. Their models cost more than half of Holistic's time. The
graph is mediapipe's own but for gates before the parts, and a pose model without its picture of the body's outline.
"""

import struct
from collections.abc import Collection
from pathlib import Path
from typing import Any

import mediapipe
import numpy as np
from mediapipe.calculators.core import gate_calculator_pb2 as _gate_options  # noqa: F401  (registers its extension)
from mediapipe.calculators.tensor.tensors_to_detections_calculator_pb2 import TensorsToDetectionsCalculatorOptions
from mediapipe.calculators.util.thresholding_calculator_pb2 import ThresholdingCalculatorOptions
from mediapipe.framework.calculator_pb2 import CalculatorGraphConfig
from mediapipe.python._framework_bindings import resource_util, validated_graph_config
from mediapipe.tasks.metadata import schema_py_generated as tflite

ROOT = Path(mediapipe.__file__).parents[1]
GRAPH = "mediapipe/modules/holistic_landmark/holistic_landmark_cpu.binarypb"
POSE_MODEL = "mediapipe/modules/pose_landmark/pose_landmark_full.tflite"
OUTLINE = 2  # of the pose model's outputs
STEP = 33_333  # microseconds from picture to picture for the filter of the pose, as in mediapipe's own classes

_POSE = "poselandmarkcpu__"
_BY_ROI = _POSE + "poselandmarkbyroicpu__"
_LOADER = _BY_ROI + "poselandmarkmodelloader__"
_HANDS = "handlandmarksleftandrightcpu__"
# The nodes of each part, what they read from outside, and what they give.
_PARTS = {
    "face": ("facelandmarksfromposecpu__", ("image", "face_landmarks_from_pose"), "face_landmarks"),
    "hand_l": (_HANDS + "handlandmarksfromposecpu_1__", ("image", _HANDS + "left_hand_landmarks_from_pose"),
               "left_hand_landmarks"),
    "hand_r": (_HANDS + "handlandmarksfromposecpu_2__", ("image", _HANDS + "right_hand_landmarks_from_pose"),
               "right_hand_landmarks"),
}  # fmt: skip


class Holistic:
    """One person, followed from picture to picture until `reset`. Thresholds are for a person and for a hand."""

    def __init__(self, min_confidence: float, hand_confidence: float):
        self._graph = mediapipe.CalculatorGraph(graph_config=_config(min_confidence, hand_confidence))
        self._found: dict[str, Any] = {}
        for stream in ("pose_landmarks", *(given for _, _, given in _PARTS.values())):
            self._graph.observe_output_stream(stream, self._found.__setitem__)
        create, model = mediapipe.packet_creator, (ROOT / POSE_MODEL).read_bytes()
        flags = {"smooth_landmarks": True, "enable_segmentation": False, "smooth_segmentation": False,
                 "refine_face_landmarks": False, "use_prev_landmarks": True}  # fmt: skip
        self._given = {name: create.create_bool(flag) for name, flag in flags.items()} | {
            "model_complexity": create.create_int(1),
            _LOADER + "model_blob": create.create_string(without_output(model, OUTLINE)),
        }
        self._time = 0
        self._graph.start_run(self._given)

    def pose(self, image: np.ndarray) -> Any | None:
        """The landmarks of the person in `image`, uint8 (H, W, 3)."""
        self._found.clear()
        self._time += STEP
        format_ = mediapipe.ImageFormat.SRGB
        self._push("image", mediapipe.packet_creator.create_image_frame(image, image_format=format_))
        return self._taken("pose_landmarks")

    def parts(self, names: Collection[str]) -> dict[str, Any]:
        """The landmarks of those parts in the image of the last pose that are found; to be called after each pose."""
        for name in _PARTS:
            packet = mediapipe.packet_creator.create_bool(name in names)
            self._graph.add_packet_to_input_stream(stream=f"look_{name}", packet=packet.at(self._time))
        self._graph.wait_until_idle()
        found = {name: self._taken(given) for name, (_, _, given) in _PARTS.items()}
        return {name: landmarks for name, landmarks in found.items() if landmarks is not None}

    def _push(self, stream: str, packet: Any) -> None:
        self._graph.add_packet_to_input_stream(stream=stream, packet=packet.at(self._time))
        self._graph.wait_until_idle()

    def _taken(self, stream: str) -> Any | None:
        packet = self._found.get(stream)
        return None if packet is None or packet.is_empty() else mediapipe.packet_getter.get_proto(packet)

    def reset(self) -> None:
        """Forget the pictures so far."""
        self._graph.close()
        self._graph.start_run(self._given)

    def close(self) -> None:
        """Free the models."""
        self._graph.close()


def _config(min_confidence: float, hand_confidence: float) -> CalculatorGraphConfig:
    """mediapipe's graph with a gate before each part, with these thresholds, and a pose model that is given to it."""
    resource_util.set_resource_dir(str(ROOT))
    whole = validated_graph_config.ValidatedGraphConfig()
    whole.initialize(binary_graph_path=str(ROOT / GRAPH))
    config = CalculatorGraphConfig.FromString(whole.binary_config)
    nodes = {node.name: node for node in config.node}
    thresholds = {f"{prefix}handlandmarkcpu__": hand_confidence for prefix, _, _ in list(_PARTS.values())[1:]}
    thresholds[f"{_BY_ROI}tensorstoposelandmarksandsegmentation__"] = min_confidence
    for prefix, threshold in thresholds.items():
        options = nodes[f"{prefix}ThresholdingCalculator"].options
        options.Extensions[ThresholdingCalculatorOptions.ext].threshold = threshold
    options = nodes[f"{_POSE}posedetectioncpu__TensorsToDetectionsCalculator"].options
    options.Extensions[TensorsToDetectionsCalculatorOptions.ext].min_score_thresh = min_confidence
    for name, (prefix, read, _) in _PARTS.items():
        for node in config.node:
            if node.name.startswith(prefix):
                node.input_stream[:] = [_through(name, stream, read) for stream in node.input_stream]
        config.node.add(
            calculator="GateCalculator", input_stream=[*read, f"ALLOW:look_{name}"],
            output_stream=[f"{name}_{stream}" for stream in read],
        )  # fmt: skip
        config.input_stream.append(f"look_{name}")
    config.node.remove(nodes[_LOADER + "LocalFileContentsCalculator"])
    config.input_side_packet.append(_LOADER + "model_blob")
    del config.output_stream[:]
    return config


def _through(name: str, stream: str, read: tuple[str, ...]) -> str:
    """The stream, TAG:name or name, behind the gate of a part if it is one that the part reads."""
    tag, _, bare = stream.rpartition(":")
    return f"{tag}:{name}_{bare}".removeprefix(":") if bare in read else stream


def without_output(model: bytes, place: int) -> bytes:
    """A TFLite model without the operations that only its output `place` needs; the others give the same bits.

    The place of the output stays, but another one stands there.
    """
    graph = tflite.Model.GetRootAs(model).Subgraphs(0)
    operators = [graph.Operators(number) for number in range(graph.OperatorsLength())]
    outputs = graph.OutputsAsNumpy().tolist()
    makers = {tensor: operator for operator in operators for tensor in operator.OutputsAsNumpy().tolist()}
    needed, asked = set(), [tensor for number, tensor in enumerate(outputs) if number != place]
    while asked:
        operator = makers.get(asked.pop())
        if operator is not None and operator._tab.Pos not in needed:
            needed.add(operator._tab.Pos)
            asked += operator.InputsAsNumpy().tolist()
    kept = [operator._tab.Pos for operator in operators if operator._tab.Pos in needed]
    edited, table = bytearray(model), graph._tab
    first = table.Vector(table.Offset(_OPERATORS))
    struct.pack_into("<I", edited, first - 4, len(kept))
    for number, position in enumerate(kept):  # each is given by its distance from here
        struct.pack_into("<I", edited, first + 4 * number, position - first - 4 * number)
    at = table.Vector(table.Offset(_OUTPUTS)) + 4 * place
    struct.pack_into("<i", edited, at, outputs[0 if place else 1])
    return bytes(edited)


_OUTPUTS, _OPERATORS = 8, 10  # of a SubGraph's table in TensorFlow Lite's schema
