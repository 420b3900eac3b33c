"""What the local clients say, in each language. Where the live page says it too, in its words."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Language(StrEnum):
    """One that the clients speak."""

    ENGLISH = "en"
    CHINESE = "zh"

    @classmethod
    def of(cls, tag: str | None) -> "Language":
        """That of a locale, such as `zh-CN` or `zh_CN.UTF-8`; English for one that we lack."""
        spoken = (tag or "").replace("_", "-").split("-")[0].lower()
        return cls(spoken) if spoken in set(cls) else cls.ENGLISH

    @classmethod
    def of_environment(cls, environment: Mapping[str, str]) -> "Language":
        """That of a terminal, as programs look for it."""
        names = ("LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG")
        stated = next((environment[name] for name in names if environment.get(name)), "")
        # LANGUAGE may hold several, the most wanted first.
        return cls.of(stated.partition(":")[0])


LANGUAGE_NAMES = {Language.ENGLISH: "English", Language.CHINESE: "中文"}


@dataclass(frozen=True, slots=True)
class Message:
    """Something to say, in whatever language it will be read."""

    key: str
    values: Mapping[str, object]

    def __str__(self) -> str:
        return self.in_language(Language.ENGLISH)

    def in_language(self, language: Language) -> str:
        """Its words."""
        values = {
            name: value.in_language(language) if isinstance(value, Message) else value
            for name, value in self.values.items()
        }
        return MESSAGES[language][self.key].format(**values)


def message(key: str, **values: object) -> Message:
    """The message of this key; what its text has in braces becomes a value, also a message."""
    return Message(key, values)


ENGLISH = {
    "time.seconds": "{number} s",
    "time.minutes": "{number} min",
    # What goes on
    "state.idle": "NOT LISTENING",
    "state.connecting": "CONNECTING",
    "state.queued": "QUEUED",
    "state.listening": "LISTENING",
    "state.muted": "MUTED",
    "state.speaking": "SPEAKING",
    "state.catching_up": "CATCHING UP",
    "state.reconnecting": "RECONNECTING",
    "emotion.happy": "happy",
    "emotion.sad": "sad",
    "emotion.angry": "angry",
    "emotion.surprise": "surprise",
    "emotion.normal": "normal",
    "emotion.urgent": "urgent",
    "hint.start": "Press start, and speak. Or play something into it.",
    "hint.speak": "Speak, type, or play something into it.",
    "hint.terminal": "Enter sends what you type, Esc stops a reply, Tab mutes, Ctrl+C ends",
    "queue.position": "Every place is taken. You are number {position} in the queue.",
    "queue.wait": "The wait is about {time}.",
    "held": "paused: is somebody speaking?",
    "behind": "catching up, {time} behind",
    "blocks_lost": "blocks of sound lost: {number}",
    "gaps": "gaps in what was played: {number}",
    "latency.sinceSpeech": "after you stopped",
    "latency.sinceTyped": "after you typed it",
    "latency.sinceChunk": "after it heard it",
    "latency.decided": "decided",
    "latency.firstText": "first text",
    "latency.firstSound": "first sound",
    "latency.p95": "p95",
    "latency.both": "p50 {p50} · p95 {p95}",
    "memory.title": "Memory of this conversation",
    "memory.used": "{used} of {all}",
    # The strip
    "strip.title": "What it heard, and how much it wanted to speak",
    "strip.tick": "one tick is 0.4 s",
    "strip.sound": "sound",
    "strip.chance": "chance that it speaks",
    "strip.chance_short": "chance",
    "strip.reply": "reply",
    # The conversation
    "conversation.title": "Conversation",
    "conversation.empty": "Replies appear here.",
    "conversation.list": "Replies so far",
    "turn.cutAfter": "cut off by you after {time}",
    "turn.stoppedAfter": "stopped by you after {time}",
    "turn.stopped": "stopped",
    "turn.incomplete": "cut at the longest reply",
    "turn.held": "paused for a noise",
    "turn.unprompted": "unprompted",
    "turn.typed": "you typed",
    "turn.unheard": "not said any more",
    "turn.silentIn": "silent in {time}",
    "say.or_add": "Type, or add a file",
    # Controls
    "start": "Start listening",
    "stop": "Stop",
    "mute": "Mute",
    "microphone.use": "Use the microphone",
    "stopReply": "Stop reply",
    "play.label": "Play into it:",
    "play.help": "It is heard instead of the microphone. Chosen again, it stops.",
    "file.stop": "Stop {name}",
    "section.recordings": "Sources of the recordings",
    # Settings
    "server": "Server",
    "setting.accessKey": "Access key",
    "access_key.help": "Only where the server asks for one.",
    "setting.inputDevice": "Microphone",
    "setting.outputDevice": "Loudspeaker",
    "device.system": "the system’s choice",
    "device.no_microphone": "none: I type and play",
    "device.no_loudspeaker": "none: I read",
    "device.look_again": "Look for devices again",
    "device.looking": "Looking for microphones and loudspeakers",
    "device.none_found": "No microphone or no loudspeaker was found.",
    "device.used": "used unless another is chosen",
    "device.microphones": "Microphones",
    "device.loudspeakers": "Loudspeakers",
    "device.list": "{title}:",
    "device.list_empty": "{title}: none found",
    "speak": "Speak replies",
    "setting.voice": "Voice",
    "help.voice": "Online voices sound better and are sent the text of replies; the others work "
    "without internet.",
    "voice.auto": "Automatic: online, else offline",
    "voice.later": "The server’s voices can be chosen once it is connected.",
    "eagerness.label": "Eagerness",
    "eagerness.help": "How easily it speaks: moves the dotted line",
    "setting.language": "Language",
    "echo.advice": "There is no echo cancellation here: use headphones, or a quiet loudspeaker. "
    "The server leaves out what it recognises as its own voice.",
    # Recording
    "record": "Record",
    "record.stop": "Stop recording",
    "record.light": "recording {time}",
    "record.about": "What the microphone hears, what the model decides and every reply are written "
    "down on this server, until you delete them. A recording begins with a new conversation.",
    "record.ends": "The conversation that goes on now ends, and is forgotten.",
    "record.name": "Title",
    "record.begin": "Start recording",
    "record.ended": "Recorded: {time}. It stays on this server until you delete it.",
    "record.ended_at": "Recorded: {time}. It stays on this server until you delete it: {address}",
    "record.failed": "The server could not go on recording. In its words: {reason}.",
    "record.open": "Open the recording",
    # The terminal
    "talk.welcome": "{state}: {server}. Type a line to send it; q or Ctrl+C ends.",
    "talk.devices": "Microphone: {microphone}. Loudspeaker: {loudspeaker}.",
    "talk.starting": "Starting a server at {server} ...",
    # Notices
    "notice.loading": "The server is there, and loads its model ...",
    "notice.reconnecting": "The connection was lost. Trying to take up the conversation where it "
    "was; you can go on speaking.",
    "notice.ends_soon": "Nothing has happened for a while. The conversation ends in {seconds} s; "
    "speak or type to keep it.",
    "notice.voice_fallback": "The online voice cannot be reached, so the offline voice speaks.",
    # What the server says in words of its own
    "server.says": "{words}",
    # Problems
    "problem.address": "'{text}' is not a server's address; one looks like {example}, or "
    "wss://example.org for one with HTTPS",
    "problem.no_server": "No server answers at {server} ({reason}).",
    "problem.too_long": "it takes too long",
    "problem.no_local_server": "No server answers at {server}. Start one in another terminal with: "
    "{command}",
    "problem.no_such_server": "What answers at {server} is no server of this kind ({reason}).",
    "problem.not_here": "{server} is not on this machine: a server cannot be started there from "
    "here.",
    "problem.server_not_started": "The server did not start: {reason}",
    "problem.silent": "it said nothing",
    "problem.server_gone": "The server cannot be reached. Check that it is running, then start "
    "again.",
    "problem.message_too_large": "The server refused a message that was too large. Start again.",
    "problem.model_failed": "The model failed on this conversation. Start again for a new one.",
    "problem.server_restarting": "The server is restarting. Start again in a moment.",
    "problem.server_full": "All conversations are taken. Wait for one to end, then start again.",
    "problem.wrong_key": "This server wants an access key, and not this one. Give the right one, "
    "then start again.",
    "problem.session_expired": "The conversation has ended because nothing happened for a while. "
    "Start again for a new one.",
    "problem.goes_on_elsewhere": "This conversation goes on in another client.",
    "problem.session_lost": "The connection was away for too long, or the server was restarted: "
    "the conversation is over. Start again for a new one.",
    "problem.refused": "The server refused: {reason}.",
    "refused.recording_off": "This server records nothing.",
    "refused.recording_full": "The server has no room for recordings. Delete one, then try again.",
    "problem.connection_ended": "The connection ended (code {code}). Start again.",
    "problem.silent_microphone": "The microphone gives no sound any more. Connect it again, or "
    "choose another, then start again.",
    "problem.microphone_missing": "No microphone was found. Connect one, or choose one that "
    "`--list-devices` shows.",
    "problem.no_microphone_at_all": "No microphone was found. Connect one, or go on without "
    "(--text-only).",
    "problem.loudspeaker_missing": "No loudspeaker was found. Connect one, or choose one that "
    "`--list-devices` shows.",
    "problem.no_loudspeaker_at_all": "No loudspeaker was found. Connect one, or go on without "
    "(--text-only).",
    "problem.no_such_microphone": "There is no microphone '{name}'. There are: {names}.",
    "problem.no_such_loudspeaker": "There is no loudspeaker '{name}'. There are: {names}.",
    "problem.microphone_unusable": "The microphone '{name}' cannot be opened. Close the program "
    "that uses it, or choose another.",
    "problem.loudspeaker_unusable": "The loudspeaker '{name}' cannot be opened. Close the program "
    "that uses it, or choose another.",
    "problem.no_pyaudio": "Microphone and loudspeakers need PyAudio and PortAudio, which are not "
    "installed ({reason}). Install them with: {command}",
    "problem.unreadable": "'{name}' cannot be read as a recording. Try another (WAV, MP3, Ogg or "
    "FLAC), or the microphone.",
}

CHINESE = {
    "time.seconds": "{number} 秒",
    "time.minutes": "{number} 分钟",
    # 当前
    "state.idle": "没有在听",
    "state.connecting": "正在连接",
    "state.queued": "排队中",
    "state.listening": "正在听",
    "state.muted": "已静音",
    "state.speaking": "正在说",
    "state.catching_up": "正在追赶",
    "state.reconnecting": "正在重连",
    "emotion.happy": "开心",
    "emotion.sad": "难过",
    "emotion.angry": "生气",
    "emotion.surprise": "惊讶",
    "emotion.normal": "平静",
    "emotion.urgent": "紧急",
    "hint.start": "按下“开始听”，然后说话；也可以放一段声音给它听。",
    "hint.speak": "说话、打字，或者放一段声音给它听。",
    "hint.terminal": "回车发送，Esc 停止回复，Tab 静音，Ctrl+C 结束",
    "queue.position": "名额已满，你排在第 {position} 位。",
    "queue.wait": "预计等待约 {time}。",
    "held": "已暂停：有人在说话吗？",
    "behind": "正在追赶，落后 {time}",
    "blocks_lost": "丢失的声音片段：{number}",
    "gaps": "播放中的间断：{number}",
    "latency.sinceSpeech": "你说完之后",
    "latency.sinceTyped": "你发送之后",
    "latency.sinceChunk": "听到之后",
    "latency.decided": "决定",
    "latency.firstText": "首个文字",
    "latency.firstSound": "首个声音",
    "latency.p95": "p95",
    "latency.both": "p50 {p50} · p95 {p95}",
    "memory.title": "本次对话的记忆",
    "memory.used": "{used} / {all}",
    # 决策带
    "strip.title": "它听到了什么，有多想开口",
    "strip.tick": "每格 0.4 秒",
    "strip.sound": "声音",
    "strip.chance": "开口的概率",
    "strip.chance_short": "概率",
    "strip.reply": "回复",
    # 对话
    "conversation.title": "对话",
    "conversation.empty": "回复会显示在这里。",
    "conversation.list": "目前的回复",
    "turn.cutAfter": "说了 {time} 后被你打断",
    "turn.stoppedAfter": "说了 {time} 后被你停止",
    "turn.stopped": "已停止",
    "turn.incomplete": "达到最长回复长度",
    "turn.held": "因声响短暂停顿",
    "turn.unprompted": "主动开口",
    "turn.typed": "你输入的",
    "turn.unheard": "没有说出口的部分",
    "turn.silentIn": "{time} 内安静",
    "say.or_add": "打字，或添加文件",
    # 控制
    "start": "开始听",
    "stop": "停止",
    "mute": "静音",
    "microphone.use": "使用麦克风",
    "stopReply": "停止回复",
    "play.label": "放给它听：",
    "play.help": "播放时代替麦克风；再选一次即停止。",
    "file.stop": "停止 {name}",
    "section.recordings": "录音来源",
    # 设置
    "server": "服务器",
    "setting.accessKey": "访问密钥",
    "access_key.help": "仅在服务器要求时填写。",
    "setting.inputDevice": "麦克风",
    "setting.outputDevice": "扬声器",
    "device.system": "由系统选择",
    "device.no_microphone": "无：只打字和播放",
    "device.no_loudspeaker": "无：只看文字",
    "device.look_again": "重新查找设备",
    "device.looking": "正在查找麦克风和扬声器",
    "device.none_found": "没有找到麦克风或扬声器。",
    "device.used": "默认使用",
    "device.microphones": "麦克风",
    "device.loudspeakers": "扬声器",
    "device.list": "{title}：",
    "device.list_empty": "{title}：没有找到",
    "speak": "朗读回复",
    "setting.voice": "声音",
    "help.voice": "在线语音更自然，但需要发送回复的文字；其他语音无需联网。",
    "voice.auto": "自动：优先在线，否则用本机",
    "voice.later": "连接之后即可选择服务器的声音。",
    "eagerness.label": "开口意愿",
    "eagerness.help": "它有多容易开口：移动虚线",
    "setting.language": "语言",
    "echo.advice": "这里没有回声消除：请使用耳机，或调低扬声器音量。"
    "服务器会滤掉它认出的自己的声音。",
    # 录制
    "record": "录制",
    "record.stop": "停止录制",
    "record.light": "正在录制 {time}",
    "record.about": "麦克风听到的声音、模型的每个决定和每条回复都会写在这台服务器上，"
    "直到你删除为止。录制从一次新的对话开始。",
    "record.ends": "正在进行的对话会结束，并被遗忘。",
    "record.name": "标题",
    "record.begin": "开始录制",
    "record.ended": "已录制 {time}。录音保存在这台服务器上，直到你删除为止。",
    "record.ended_at": "已录制 {time}。录音保存在这台服务器上，直到你删除为止：{address}",
    "record.failed": "服务器无法继续录制。它的原话：{reason}。",
    "record.open": "打开录音",
    # 终端
    "talk.welcome": "{state}：{server}。输入一行即可发送；q 或 Ctrl+C 结束。",
    "talk.devices": "麦克风：{microphone}。扬声器：{loudspeaker}。",
    "talk.starting": "正在 {server} 启动服务器……",
    # 通知
    "notice.loading": "服务器已启动，正在加载模型……",
    "notice.reconnecting": "连接已断开，正在从断开处恢复对话。你可以继续说话。",
    "notice.ends_soon": "已有一段时间没有动静，对话将在 {seconds} 秒后结束；说话或打字即可继续。",
    "notice.voice_fallback": "无法连接在线语音，改用离线语音朗读。",
    # 服务器的原话
    "server.says": "{words}",
    # 问题
    "problem.address": "“{text}”不是服务器地址；地址形如 {example}，使用 HTTPS 时形如 "
    "wss://example.org",
    "problem.no_server": "{server} 没有服务器应答（{reason}）。",
    "problem.too_long": "等待时间过长",
    "problem.no_local_server": "{server} 没有服务器应答。请在另一个终端中启动：{command}",
    "problem.no_such_server": "{server} 上应答的不是这种服务器（{reason}）。",
    "problem.not_here": "{server} 不在这台机器上，无法从这里启动服务器。",
    "problem.server_not_started": "服务器没有启动：{reason}",
    "problem.silent": "没有任何输出",
    "problem.server_gone": "无法连接服务器。请确认它正在运行，然后重新开始。",
    "problem.message_too_large": "服务器拒绝了一条过大的消息。请重新开始。",
    "problem.model_failed": "模型在这次对话中出错。请重新开始一次新的对话。",
    "problem.server_restarting": "服务器正在重启。请稍后重新开始。",
    "problem.server_full": "所有对话名额都已占用。请等其中一个结束后再开始。",
    "problem.wrong_key": "此服务器需要访问密钥，当前密钥无效。请提供正确的密钥，然后重新开始。",
    "problem.session_expired": "长时间没有动静，对话已结束。请重新开始一次新的对话。",
    "problem.goes_on_elsewhere": "此对话已在另一个客户端中继续。",
    "problem.session_lost": "连接中断时间过长，或服务器已重启，对话已结束。"
    "请重新开始一次新的对话。",
    "problem.refused": "服务器拒绝了连接：{reason}。",
    "refused.recording_off": "这台服务器不录制任何内容。",
    "refused.recording_full": "服务器没有空间保存录音了。请删除一段后再试。",
    "problem.connection_ended": "连接已结束（代码 {code}）。请重新开始。",
    "problem.silent_microphone": "麦克风不再有声音。请重新连接或另选一个，然后重新开始。",
    "problem.microphone_missing": "没有找到麦克风。请连接一个，或从 `--list-devices` 列出的"
    "麦克风中选择。",
    "problem.no_microphone_at_all": "没有找到麦克风。请连接一个，或不用麦克风（--text-only）。",
    "problem.loudspeaker_missing": "没有找到扬声器。请连接一个，或从 `--list-devices` 列出的"
    "扬声器中选择。",
    "problem.no_loudspeaker_at_all": "没有找到扬声器。请连接一个，或不用扬声器（--text-only）。",
    "problem.no_such_microphone": "没有麦克风“{name}”。现有：{names}。",
    "problem.no_such_loudspeaker": "没有扬声器“{name}”。现有：{names}。",
    "problem.microphone_unusable": "麦克风“{name}”无法打开。请关闭正在使用它的程序，或另选一个。",
    "problem.loudspeaker_unusable": "扬声器“{name}”无法打开。请关闭正在使用它的程序，或另选一个。",
    "problem.no_pyaudio": "麦克风和扬声器需要 PyAudio 和 PortAudio，但尚未安装（{reason}）。"
    "安装命令：{command}",
    "problem.unreadable": "“{name}”无法作为录音读取。请换一个文件（WAV、MP3、Ogg 或 FLAC），"
    "或使用麦克风。",
}

MESSAGES = {Language.ENGLISH: ENGLISH, Language.CHINESE: CHINESE}
