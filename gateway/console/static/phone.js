"use strict";
// A page that plays Twilio: it speaks the frames of ConversationRelay with the gateway, and a person types or speaks.
(() => {
  // A voice says about so many characters in a second: where no voice speaks, what was heard is known by the time.
  const CHARACTERS_PER_MS = 15 / 1000;
  const TICK_MS = 50;
  // What was on its way when the agent was interrupted is dropped for so long, or until the person has said something.
  const STALE_MS = 250;
  // A session that is lost is connected again after these times.
  const RETRIES_MS = [300, 700, 1500, 3000, 6000];
  // While a person types the agent does not ask whether there is still someone: said so at most so often.
  const TYPING_MS = 1000;
  const HUNG_UP = 1000;
  const REFUSED = [1000, 1002, 1007, 1008];
  const Recognition = window.SpeechRecognition || window.webkitSpeechRecognition;

  const byId = (id) => document.getElementById(id);
  const shown = (ms) => (ms < 1000 ? Math.round(ms) + " ms" : (ms / 1000).toFixed(1) + " s");

  function made(tag, classes, parent) {
    const one = document.createElement(tag);
    if (classes) one.className = classes;
    parent.append(one);
    return one;
  }

  // Says what is sent, aloud or silently, and knows how much of it was heard.
  class Voice {
    constructor(changed) {
      Object.assign(this, { changed, text: "", at: 0, spokenMs: 0, isLast: true, isAloud: false, unsaid: "", waiting: 0, language: "" });
      setInterval(() => this.tick(), TICK_MS);
      this.ticked = performance.now();
    }

    get isSpeaking() { return this.at < this.text.length || !this.isLast; }

    begin() { Object.assign(this, { text: "", at: 0, spokenMs: 0, unsaid: "" }); }

    say(text, isLast) {
      this.text += text;
      this.isLast = isLast;
      if (!this.isAloud) return;
      this.unsaid += text;
      const end = isLast ? this.unsaid.length : this.unsaid.search(/[.!?…](?=\s)/) + 1;
      if (end > 0) this.speak(this.unsaid.slice(0, end));
      this.unsaid = this.unsaid.slice(end);
    }

    speak(text) {
      if (!text.trim()) return;
      const [spoken, offset] = [new SpeechSynthesisUtterance(text), this.text.length - this.unsaid.length];
      const reach = (at) => { if (this.text) this.at = Math.min(Math.max(this.at, at), this.text.length); };
      const ended = () => { this.waiting = Math.max(this.waiting - 1, 0); reach(offset + text.length); };
      spoken.lang = this.language;
      spoken.onboundary = (event) => reach(offset + event.charIndex + (event.charLength || 0));
      spoken.onend = spoken.onerror = ended;
      this.waiting += 1;
      speechSynthesis.speak(spoken);
    }

    tick() {
      const now = performance.now(), passed = now - this.ticked;
      this.ticked = now;
      if (this.at >= this.text.length) return;
      this.spokenMs += passed;
      if (!this.waiting) this.at = Math.min(this.at + passed * CHARACTERS_PER_MS, this.text.length);
      this.changed();
    }

    // The words that were heard until now.
    get heard() {
      const at = Math.floor(this.at);
      const whole = /\s|^$/.test(this.text.charAt(at)) ? this.text.slice(0, at) : this.text.slice(0, at).replace(/\S+$/, "");
      return whole.trimEnd();
    }

    stop() {
      this.waiting = 0;
      this.isLast = true;
      if (this.isAloud) speechSynthesis.cancel();
    }
  }

  class PhoneCall {
    constructor(form) {
      this.form = form;
      this.settings = form.dataset;
      this.late = JSON.parse(form.dataset.late);
      this.language = form.dataset.language;
      this.voice = new Voice(() => this.drawAnswer());
      this.turn = null;
      this.firsts = [];
      Object.assign(this, { interruptions: 0, lost: 0, typedAt: 0, interruptedAt: -Infinity, isOver: false, wasSpeaking: false, isGreeting: false });
    }

    connect() {
      const { relay, number, call } = this.settings;
      const address = new URL(relay, location.href);
      address.protocol = address.protocol.replace("http", "ws");
      address.search = new URLSearchParams({ number, call });
      this.socket = new WebSocket(address);
      this.socket.onopen = () => this.opened();
      this.socket.onmessage = (message) => this.take(JSON.parse(message.data));
      this.socket.onclose = (event) => this.closed(event);
    }

    send(type, fields) {
      if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify({ type, ...fields }));
    }

    opened() {
      const { number, call, caller } = this.settings;
      this.send("setup", {
        sessionId: "VX" + crypto.randomUUID().replaceAll("-", ""), callSid: call, parentCallSid: null, from: caller, to: number,
        direction: "console", callStatus: "IN-PROGRESS", customParameters: {},
      });
      byId("status").textContent = "connected";
      for (const control of this.controls()) control.disabled = false;
      byId("text").focus();
      if (!this.lost && this.settings.greeting) this.greet();
      this.lost = 0;
    }

    // Twilio says the greeting by itself.
    greet() {
      this.begin("");
      this.isGreeting = true;
      this.voice.say(this.settings.greeting, true);
      this.drawAnswer();
    }

    controls() { return document.querySelectorAll("#text, #say, #listen, #keys"); }

    closed(event) {
      const delay = RETRIES_MS[this.lost];
      if (!this.isOver && !REFUSED.includes(event.code) && delay !== undefined) {
        this.lost += 1;
        this.voice.stop();
        if (this.turn) this.turn.isDone = true;
        for (const control of this.controls()) control.disabled = true;
        byId("status").textContent = "connecting again";
        setTimeout(() => this.connect(), delay);
        return;
      }
      if (!this.isOver) this.over(event.reason ? "refused" : "over", event.reason || "The gateway ended the phone call.");
    }

    over(status, problem) {
      this.isOver = true;
      this.voice.stop();
      this.hear(false);
      byId("status").textContent = status;
      byId("hang-up").hidden = true;
      for (const control of this.controls()) control.disabled = true;
      byId("problem").textContent = problem || "";
      byId("problem").hidden = !problem;
      byId("record").focus();
    }

    hangUp() {
      this.over("hung up");
      this.socket.close(HUNG_UP);
    }

    // Frames of the gateway

    take(frame) {
      if (frame.type === "text") this.takeText(frame);
      if (frame.type === "language") this.language = this.voice.language = frame.ttsLanguage || this.language;
      if (frame.type === "sendDigits") this.note("The agent sends the keys " + frame.digits + ".");
      if (frame.type === "play") this.note("The agent plays a recording, which a telephone would hear.");
      if (frame.type === "end") this.ended(frame);
    }

    ended(frame) {
      let reason = "";
      try { reason = JSON.parse(frame.handoffData || "{}").reason || ""; } catch { /* it says no reason */ }
      this.over("ended by the agent" + (reason ? ": " + reason.replaceAll("_", " ") : ""));
      this.socket.close(HUNG_UP);
    }

    takeText({ token, last }) {
      const now = performance.now();
      if (now - this.interruptedAt < STALE_MS) return;
      if (!token && !this.voice.text) return; // it ends an answer that was overtaken by what the person said next
      if (!this.turn || this.turn.isDone) this.begin("");
      const turn = this.turn;
      if (token.trim() && this.late.includes(token.trim()) && turn.first === undefined) turn.fillers.push(now - turn.began);
      else if (token.trim()) turn.first ??= now - turn.began;
      this.voice.say(token, last);
      if (last) {
        turn.isDone = true;
        turn.whole = now - turn.began;
        if (turn.isAsked && turn.first !== undefined) this.firsts.push(turn.first);
      }
      this.drawAnswer();
      this.drawFigures();
    }

    // What the person does

    say(text) {
      this.interrupt("speech");
      this.interruptedAt = -Infinity;
      this.begin(text);
      this.send("prompt", { voicePrompt: text, lang: this.language, last: true });
    }

    partial(text) { this.send("prompt", { voicePrompt: text, lang: this.language, last: false }); }

    // A person who types speaks, and has said nothing yet; one who has removed the text says nothing.
    typing(text) {
      if (text) this.interrupt("speech");
      const now = performance.now();
      if (text && now - this.typedAt < TYPING_MS) return;
      this.typedAt = text ? now : 0;
      this.send("prompt", { voicePrompt: "", lang: this.language, last: !text });
    }

    press(digit) {
      this.interrupt("dtmf");
      this.interruptedAt = -Infinity;
      this.note("A key was pressed.");
      this.send("dtmf", { digit });
    }

    interrupt(by) {
      const allowed = this.isGreeting ? this.settings.greetingInterruptible : this.settings.interruptible;
      if (!this.turn || !this.voice.isSpeaking || !this.voice.text || !["any", by].includes(allowed)) return;
      const [heard, ms] = [this.voice.heard, Math.round(this.voice.spokenMs)];
      this.send("interrupt", { utteranceUntilInterrupt: heard, durationUntilInterruptMs: ms });
      this.turn.cut = this.voice.text.slice(heard.length);
      this.turn.heard = heard;
      this.turn.isDone = true;
      this.voice.stop();
      this.voice.begin();
      this.drawAnswer();
      this.interruptedAt = performance.now();
      this.interruptions += 1;
      this.drawFigures();
    }

    hear(on) {
      byId("listen").setAttribute("aria-pressed", String(on));
      if (!on) { this.recognition?.abort(); this.recognition = null; return; }
      const listening = this.recognition = new Recognition();
      Object.assign(listening, { continuous: true, interimResults: true, lang: this.language });
      listening.onresult = (event) => {
        const result = event.results[event.results.length - 1], text = result[0].transcript.trim();
        if (!text) return;
        if (result.isFinal) { byId("text").value = ""; this.say(text); return; }
        this.interrupt("speech");
        byId("text").value = text;
        if (this.settings.partials === "true") this.partial(text);
      };
      listening.onerror = (event) => { if (!["no-speech", "aborted"].includes(event.error)) this.problem("The browser cannot listen: " + event.error + "."); };
      listening.onend = () => { if (this.recognition === listening) { if (this.isOver || this.isDeaf) this.hear(false); else listening.start(); } };
      listening.start();
    }

    problem(text) {
      this.isDeaf = true;
      byId("problem").textContent = text;
      byId("problem").hidden = false;
    }

    // What the page shows

    begin(said) {
      byId("none").hidden = true;
      if (this.turn?.isAsked && !this.turn.isDone && this.turn.answer.hidden) this.turn.figures.textContent = "More was said before the answer.";
      const line = made("li", "", byId("turns"));
      if (said) made("p", "text said", line).textContent = said;
      const answer = made("p", "text answer", line);
      const parts = { heard: made("span", "", answer), ahead: made("span", "ahead", answer), cut: made("del", "", answer) };
      answer.hidden = true;
      this.turn = { line, answer, parts, began: performance.now(), fillers: [], isAsked: Boolean(said), figures: made("p", "quiet small", line) };
      this.isGreeting = false;
      this.voice.stop();
      this.voice.begin();
      this.voice.isLast = !said;
      if (said) this.turn.figures.textContent = "The agent is asked.";
      line.scrollIntoView({ block: "nearest" });
    }

    note(text) {
      byId("none").hidden = true;
      const line = made("li", "", byId("turns"));
      made("p", "quiet small", line).textContent = text;
    }

    drawAnswer() {
      const { turn, voice } = this;
      if (!turn) return;
      const { heard, ahead, cut } = turn.parts, at = Math.floor(voice.at);
      turn.answer.hidden = !voice.text && !turn.cut;
      heard.textContent = turn.cut === undefined ? voice.text.slice(0, at) : turn.heard;
      ahead.textContent = turn.cut === undefined ? voice.text.slice(at) : "";
      cut.textContent = turn.cut || "";
      const isSpeaking = voice.isSpeaking && Boolean(voice.text);
      if (isSpeaking !== this.wasSpeaking) this.send("info", { name: "agentSpeaking", value: isSpeaking ? "on" : "off" });
      this.wasSpeaking = isSpeaking;
      const said = [
        ...turn.fillers.map((ms) => "filler after " + shown(ms)),
        turn.isAsked && turn.first !== undefined && "first text after " + shown(turn.first),
        turn.isAsked && turn.whole !== undefined && "whole answer after " + shown(turn.whole),
        turn.cut !== undefined && "interrupted" + (turn.heard ? "" : " before a word was heard"),
      ].filter(Boolean).join(", ");
      if (said) turn.figures.textContent = said.charAt(0).toUpperCase() + said.slice(1) + ".";
      else if (!turn.isAsked) turn.figures.textContent = "";
    }

    drawFigures() {
      const { turn, firsts } = this;
      if (turn && turn.isAsked && turn.first !== undefined) byId("first-text").textContent = shown(turn.first);
      if (turn && turn.isAsked && turn.whole !== undefined) byId("whole-answer").textContent = shown(turn.whole);
      if (firsts.length) byId("average").textContent = shown(firsts.reduce((sum, one) => sum + one, 0) / firsts.length);
      byId("count").textContent = firsts.length + (firsts.length === 1 ? " answer" : " answers");
      byId("interruptions").textContent = this.interruptions;
    }
  }

  document.addEventListener("DOMContentLoaded", () => {
    const form = byId("phone"), begin = byId("begin"), text = byId("text"), aloud = byId("aloud");
    const call = new PhoneCall(form);
    form.hidden = begin.hidden = false;
    byId("listen").hidden = byId("speech-hint").hidden = !Recognition;
    const showAloud = () => { byId("aloud-label").hidden = !speechSynthesis.getVoices().length; };
    if ("speechSynthesis" in window) {
      showAloud();
      speechSynthesis.addEventListener?.("voiceschanged", showAloud);
    }
    begin.focus();
    begin.addEventListener("click", () => {
      begin.hidden = true;
      byId("hang-up").hidden = byId("record").hidden = false;
      byId("status").textContent = "connecting";
      call.voice.isAloud = aloud.checked;
      call.voice.language = call.language;
      call.connect();
    });
    byId("hang-up").addEventListener("click", () => call.hangUp());
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const said = text.value.trim();
      text.value = "";
      if (said && !call.isOver) call.say(said);
    });
    text.addEventListener("input", () => call.typing(text.value.trim()));
    aloud.addEventListener("change", () => { if (!aloud.checked) { call.voice.stop(); call.voice.isAloud = false; } else call.voice.isAloud = true; });
    byId("listen").addEventListener("click", () => { call.isDeaf = false; call.hear(!call.recognition); });
    for (const key of document.querySelectorAll("[data-key]")) key.addEventListener("click", () => call.press(key.dataset.key));
  });
})();
