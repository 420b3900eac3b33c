// The conversation's WebSocket: the OpenAI Realtime API with the full-duplex dialect.

function address() {
  const url = new URL('v1/realtime?duplex=1&input_rate=16000', document.baseURI);
  url.protocol = url.protocol === 'https:' ? 'wss:' : 'ws:';
  return url;
}

function base64(buffer) {
  return btoa(String.fromCharCode(...new Uint8Array(buffer)));
}

export class RealtimeSocket {
  /** `onEvent` gets every server event; `onClosed` the close code, unless we closed it. */
  constructor({ onEvent, onClosed }) {
    this.socket = new WebSocket(address());
    this.socket.onmessage = ({ data }) => onEvent(JSON.parse(data));
    this.socket.onclose = ({ code }) => onClosed(code);
  }

  get isOpen() {
    return this.socket.readyState === WebSocket.OPEN;
  }

  sendAudio(pcm) {
    this.send({ type: 'input_audio_buffer.append', audio: base64(pcm) });
  }

  send(event) {
    this.socket.send(JSON.stringify(event));
  }

  close() {
    this.socket.onmessage = null;
    this.socket.onclose = null;
    this.socket.close(1000);
  }
}
