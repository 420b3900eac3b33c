"""What can be said of any page of ours: that its texts are readable, and in its language."""

import re

READABLE_CONTRAST = 4.5
# These are the same in every language.
NAMES = ["Audio-Interaction Live", "scripted", "CPU", "Esc", "edge-tts", "eSpeak", "Jenny", "Top-k"]
NAMES += ["English", "token", "http", "https", "localhost", "WAV", "MP3", "Ogg", "FLAC", "wav"]
NAMES += [
    "--no-recordings",
    "Jarvis",
    "aisession",
    "html",
    "vtt",
    "srt",
    "svg",
    "png",
    "csv",
    "json",
    "logit",
    "embedded",
    "cpu",
]

# Every visible text with its contrast: [[text, ratio], ...]; what is disabled may be faint.
CONTRASTS = """() => {
  const canvas = new OffscreenCanvas(1, 1).getContext('2d', { willReadFrequently: true });
  const paint = (colours) => {
    canvas.clearRect(0, 0, 1, 1);
    for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const luminance = (colour) => {
    const [r, g, b] = colour.map((value) => {
      const channel = value / 255;
      return channel <= 0.04045 ? channel / 12.92 : ((channel + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const grounds = (element) => element === null
    ? ['white'] : [...grounds(element.parentElement), getComputedStyle(element).backgroundColor];
  const found = [];
  const root = document.querySelector('.page');
  const texts = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const { parentElement: element, data } = texts.currentNode;
    if (data.trim() === '' || !element.checkVisibility({ visibilityProperty: true })) continue;
    if (element.closest(':disabled') !== null) continue;
    const ground = grounds(element);
    const text = luminance(paint([...ground, getComputedStyle(element).color]));
    const behind = luminance(paint(ground));
    const [darker, lighter] = [text, behind].sort((a, b) => a - b);
    found.push([data.trim(), (lighter + 0.05) / (darker + 0.05)]);
  }
  return found;
}"""

# Everything that can be read or is read out, but for what the model and the samples say.
WORDS = """() => {
  const root = document.querySelector('.page');
  const data = ['[data-part=reply]', '[data-part=heard]', '[data-part=bubble]', '[data-part=tries]',
    '.said', '[data-part=facts] dd:last-child',
    '[data-part=forkPrompt]', '[data-part=samples]', '[data-part=sounds]', '.credits'].join();
  const isData = (element) => element.closest(data) !== null;
  const found = [];
  const texts = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    if (!isData(texts.currentNode.parentElement)) found.push(texts.currentNode.data);
  }
  for (const element of root.querySelectorAll('*')) {
    for (const name of ['aria-label', 'title', 'placeholder', 'aria-valuetext', 'label']) {
      if (element.hasAttribute(name) && !isData(element)) found.push(element.getAttribute(name));
    }
  }
  return found;
}"""


def unreadable(found: list[tuple[str, float]]) -> list[tuple[str, float]]:
    """What `CONTRASTS` has found that is too faint."""
    return [(text, ratio) for text, ratio in found if ratio < READABLE_CONTRAST]


def english_of(found: list[str]) -> list[str]:
    """What `WORDS` has found that is English, but for names."""
    names = "|".join(re.escape(name) for name in NAMES)
    left = [re.sub(names, "", words) for words in found]
    return [words for words in left if re.search("[A-Za-z]{3}", words)]
