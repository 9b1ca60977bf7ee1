// From a playing <video> to the service: pictures up, never more under way than it asks for; what it says comes down.
const LONGEST = 640; // pixels of a picture's longer side
const QUALITY = 0.82;
const KEPT = 24; // pictures that were sent, to show with what is found in them

export class Session {
  // `told` has a function for each kind of message, and `closed(code, reason)`.
  constructor(video, told) {
    this.video = video;
    this.told = told;
    this.canvas = document.createElement("canvas");
    this.sent = this.done = this.skipped = this.dropped = 0;
    this.kept = []; // {time, bitmap}
    this.taken = new Map(); // the pictures under way, by number: when they were taken
    this.last = -1;
    this.encoding = this.over = false;
  }

  open({ token, language }) {
    const socket = new WebSocket(new URL("v1/stream", location.href.replace(/^http/, "ws")));
    this.socket = socket;
    socket.onopen = () => socket.send(JSON.stringify({ type: "start", token: token || undefined, language: language || undefined }));
    socket.onmessage = (event) => this.hear(JSON.parse(event.data));
    socket.onclose = (event) => {
      this.over = true;
      this.told.closed(event.code, event.reason);
    };
  }

  hear(message) {
    if (message.type === "ready") {
      this.fps = message.fps;
      this.room = message.in_flight;
      this.began = performance.now();
      this.told.ready(message);
      this.watch();
    } else if (message.type === "frame") {
      const now = performance.now();
      for (; this.done < message.done; this.done += 1) {
        message.lag = now - this.taken.get(this.done);
        this.taken.delete(this.done);
      }
      this.dropped = message.dropped;
      this.room = message.in_flight;
      this.told.frame(message);
    } else if (message.type === "text") {
      this.told.text(message);
    }
  }

  watch() {
    if (this.over) return;
    const next = (_, facts) => {
      this.take(facts?.mediaTime);
      this.watch();
    };
    if (this.video.requestVideoFrameCallback) this.video.requestVideoFrameCallback(next);
    else setTimeout(next, 500 / this.fps);
  }

  // Send the picture that is shown, if one is due. A camera's time is the clock's, a file's its own.
  take(mediaTime) {
    if (this.over || this.ended || this.video.readyState < 2) return;
    const time = this.video.srcObject ? (performance.now() - this.began) / 1000 : (mediaTime ?? this.video.currentTime);
    if (this.last >= 0 && time - this.last < 0.75 / this.fps) return;
    if (this.encoding || this.sent - this.done >= this.room) {
      this.skipped += 1;
      return;
    }
    const { videoWidth: wide, videoHeight: high } = this.video;
    const scale = Math.min(1, LONGEST / Math.max(wide, high));
    this.canvas.width = Math.round(wide * scale);
    this.canvas.height = Math.round(high * scale);
    this.canvas.getContext("2d").drawImage(this.video, 0, 0, this.canvas.width, this.canvas.height);
    this.last = time;
    this.encoding = true;
    const taken = performance.now();
    createImageBitmap(this.canvas).then((bitmap) => {
      this.kept.push({ time, bitmap });
      if (this.kept.length > KEPT) this.kept.shift().bitmap.close();
    });
    this.canvas.toBlob(async (blob) => {
      const jpeg = new Uint8Array(await blob.arrayBuffer());
      this.encoding = false;
      if (this.over || this.socket.readyState !== 1) return;
      const message = new Uint8Array(8 + jpeg.length);
      new DataView(message.buffer).setFloat64(0, time, true);
      message.set(jpeg, 8);
      this.socket.send(message);
      this.taken.set(this.sent, taken);
      this.sent += 1;
      if (this.ending) this.end();
    }, "image/jpeg", QUALITY);
  }

  // The picture that was sent for a time; earlier ones are of no use any longer.
  pictureOf(time) {
    while (this.kept.length > 1 && Math.abs(this.kept[1].time - time) <= Math.abs(this.kept[0].time - time)) this.kept.shift().bitmap.close();
    return this.kept[0]?.bitmap;
  }

  // Nothing more comes; the service says the last words, and closes.
  end() {
    this.ending = true;
    if (this.encoding || this.ended) return;
    this.ended = true;
    if (this.socket.readyState === 1) this.socket.send('{"type":"end"}');
    else this.socket.close();
  }
}
