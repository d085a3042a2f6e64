// A WebSocket that notices a half-open line by its own heartbeat and comes back with growing pauses. Coming back restores
// what is shown, never what was held.

const SILENCE_MS = 900;
const HEARTBEAT_MS = 300;
const FIRST_RETRY_MS = 250;
const LAST_RETRY_MS = 4000;

export class Link extends EventTarget {
  #url;
  #socket = null;
  #retryMs = FIRST_RETRY_MS;
  #heardMs = 0;
  #hasHeartbeat;
  #roundTripsMs = [];
  #isClosed = false;

  constructor(path, { heartbeat = false } = {}) {
    super();
    this.#url = `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}${path}`;
    this.#hasHeartbeat = heartbeat;
    this.#connect();
    if (heartbeat) setInterval(() => this.#beat(), HEARTBEAT_MS);
  }

  get isOpen() {
    return this.#socket?.readyState === WebSocket.OPEN && this.#heardMs > 0;
  }

  get roundTripsMs() {
    return this.#roundTripsMs;
  }

  send(message) {
    if (!this.isOpen) return false;
    this.#socket.send(typeof message === "string" ? message : JSON.stringify(message));
    return true;
  }

  close() {
    this.#isClosed = true;
    this.#socket?.close();
  }

  #connect() {
    const socket = new WebSocket(this.#url);
    socket.binaryType = "arraybuffer";
    this.#socket = socket;
    this.#heardMs = 0;
    socket.onopen = () => {
      if (this.#hasHeartbeat) socket.send(JSON.stringify({ type: "ping", t: performance.now() / 1000 }));
      else this.#open();
    };
    socket.onmessage = (event) => {
      if (socket !== this.#socket) return;
      if (typeof event.data !== "string") return this.#tell("binary", event.data);
      const message = JSON.parse(event.data);
      if (message.type === "pong") this.#pong(message);
      else this.#tell("message", message);
    };
    socket.onclose = (event) => this.#lose(socket, event.code);
  }

  #open() {
    this.#heardMs = performance.now();
    this.#retryMs = FIRST_RETRY_MS;
    this.#tell("up");
  }

  #beat() {
    const now = performance.now();
    if (this.#heardMs > 0 && now - this.#heardMs > SILENCE_MS) {
      const silent = this.#socket;
      silent.close();
      this.#lose(silent, 0);
    } else if (this.#socket?.readyState === WebSocket.OPEN) {
      this.#socket.send(JSON.stringify({ type: "ping", t: now / 1000 }));
    }
  }

  #pong(message) {
    const isFirst = this.#heardMs === 0;
    this.#roundTripsMs.push(performance.now() - message.t * 1000);
    if (this.#roundTripsMs.length > 100) this.#roundTripsMs.shift();
    if (isFirst) this.#open();
    this.#heardMs = performance.now();
  }

  #lose(socket, code) {
    if (socket !== this.#socket) return;
    this.#socket = null;
    this.#heardMs = 0;
    this.#tell("down", code);
    if (this.#isClosed || code === 4401 || code === 4404) return;
    setTimeout(() => this.#connect(), this.#retryMs);
    this.#retryMs = Math.min(2 * this.#retryMs, LAST_RETRY_MS);
  }

  #tell(kind, detail) {
    this.dispatchEvent(new CustomEvent(kind, { detail }));
  }
}
