// Plays the part of the recording that a button names. Without this script the recording has its own controls.
"use strict";

let until = Infinity;

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-play]");
  const audio = document.getElementById("recording");
  if (!button || !audio) return;
  until = Number(button.dataset.until) + 0.4;
  audio.currentTime = Math.max(Number(button.dataset.play) - 0.2, 0);
  audio.play();
});

document.addEventListener("timeupdate", (event) => {
  if (event.target.id !== "recording" || event.target.currentTime < until) return;
  until = Infinity;
  event.target.pause();
}, true);

// Playing on by the recording's own controls, or to another place, does not end with the moment.
document.addEventListener("seeked", (event) => {
  if (event.target.id === "recording" && event.target.currentTime > until) until = Infinity;
}, true);
