// MediaPipe's models in the browser: the only file that knows them. Points are in pixels of the given picture.
import { FilesetResolver, HandLandmarker, HolisticLandmarker } from "./vendor/vision_bundle.js";

const HOLISTIC_HAND_SHARE = 0.1, HAND_SHARE = 0.4; // of the confidence: the pose's wrist vouches for a hand
const FACE_POINTS = 468;
export const MODELS = ["mediapipe/holistic_landmarker.task", "mediapipe/hand_landmarker.task"];

export class Detector {
  static async open({ min_confidence: confidence, face_mesh: faceMesh }) {
    const detector = new Detector(), base = new URL(".", import.meta.url);
    const files = { wasmLoaderPath: new URL("vendor/vision_wasm_internal.js", base).href, wasmBinaryPath: new URL("vendor/vision_wasm_internal.wasm", base).href };
    const [holistic, hands] = MODELS.map((model) => ({ modelAssetPath: new URL(model, base).href, delegate: "CPU" }));
    detector.holistic = await HolisticLandmarker.createFromOptions(files, {
      baseOptions: holistic, runningMode: "VIDEO", minPoseDetectionConfidence: confidence, minPosePresenceConfidence: confidence,
      minHandLandmarksConfidence: HOLISTIC_HAND_SHARE * confidence,
    });
    detector.finder = await HandLandmarker.createFromOptions(files, {
      baseOptions: hands, runningMode: "IMAGE", numHands: 4, minHandDetectionConfidence: HAND_SHARE * confidence,
      minHandPresenceConfidence: HAND_SHARE * confidence,
    });
    Object.assign(detector, { base: 0, clock: 0, faceMesh });
    return detector;
  }

  // {pose, face, hand_l, hand_r} of the most prominent person, or null; parts that are not found are null.
  body(picture, time) {
    let stamp = this.base + Math.round(1000 * time);
    if (stamp <= this.clock) { // another video, and MediaPipe's clock may never go back
      this.base += this.clock + 1000 - stamp;
      stamp = this.clock + 1000;
    }
    this.clock = stamp;
    const { poseLandmarks: [pose], faceLandmarks: [face], leftHandLandmarks: [left], rightHandLandmarks: [right] } = this.holistic.detectForVideo(asImage(picture), stamp);
    if (!pose?.length) return null;
    // Of the face, the points that the Python package has too: without those of the irises.
    const points = (part) => (part?.length ? part.map(({ x, y }) => [x * picture.width, y * picture.height]) : null);
    const sure = pose.map(({ x, y, visibility }) => [x * picture.width, y * picture.height, visibility]);
    return { pose: sure, face: this.faceMesh ? points(face?.slice(0, FACE_POINTS)) : null, hand_l: points(left), hand_r: points(right) };
  }

  // All hands, 21 points each, in a square of `size` * `size` pixels of 3 bytes.
  hands(pixels, size) {
    const image = new ImageData(size, size);
    for (let place = 0; place < size * size; place += 1) image.data.set([pixels[3 * place], pixels[3 * place + 1], pixels[3 * place + 2], 255], 4 * place);
    return this.finder.detect(image).landmarks.map((hand) => hand.map(({ x, y }) => [x * size, y * size]));
  }

  // Look for somebody anew in the next picture.
  reset() {
    void this.holistic.setOptions({}); // makes its graph anew
  }
}

const asImage = (picture) => (picture instanceof ImageData ? picture : new ImageData(picture.data, picture.width, picture.height));
