// Every change of the picture asks for its digit, then, when no other follows, for the reasons.
const $ = (id) => document.getElementById(id);
const pad = $('pad'), ink = pad.getContext('2d');
const SIDE = pad.width, PEN = 20, STEP = 7;  // pixels
const QUIET = 250, RETRY = 1500;             // ms before asking why; between looks at a lost server
const FOR = [255, 145, 71], AGAINST = [86, 180, 233];
let photo = null, empty = true, last = null, newest = 0, waiting = null;

for (let digit = 0; digit < 10; digit++) {
  $('bars').insertAdjacentHTML('beforeend', `<li><small></small><div><i></i></div>${digit}</li>`);
}

// -- The picture ------------------------------------------------------------------------------

function blank() {
  ink.fillStyle = '#fff';
  ink.fillRect(0, 0, SIDE, SIDE);
  pad.classList.remove('photo');
  [photo, empty] = [null, true];
}

function clear() {
  newest++;  // what is under way is of no interest any more
  last = null;
  blank();
  $('hint').hidden = false;
  say('–', 'The answer comes when you lift the pen.');
}

function stroke(from, to) {
  if (photo) blank();
  [empty, $('hint').hidden] = [false, true];
  Object.assign(ink, {lineWidth: PEN, lineCap: 'round', lineJoin: 'round', strokeStyle: '#000'});
  ink.beginPath();
  ink.moveTo(from.x, from.y);
  ink.lineTo(to.x, to.y);
  ink.stroke();
}

async function show(file) {
  newest++;
  blank();
  [photo, empty, $('hint').hidden] = [file, false, true];
  pad.classList.add('photo');
  try {
    const picture = await createImageBitmap(file);
    const scale = SIDE / Math.max(picture.width, picture.height);
    const [w, h] = [picture.width * scale, picture.height * scale];
    ink.drawImage(picture, (SIDE - w) / 2, (SIDE - h) / 2, w, h);
  } catch {
    // Not every format that the server reads is one that the browser shows, and some are none.
    Object.assign(ink, {fillStyle: '#555', font: '16px system-ui', textAlign: 'center'});
    ink.fillText(file.name || 'pasted', SIDE / 2, SIDE / 2, SIDE - 20);
  }
  ask();
}

// -- The answer -------------------------------------------------------------------------------

async function ask() {
  const mine = ++newest, start = performance.now();
  const body = photo ?? await new Promise((done) => pad.toBlob(done, 'image/png'));
  const answer = await call('predict', body);
  if (mine !== newest) return;
  if (answer.error) {
    if (!answer.down) say('–', answer.error.message, true);
    return;
  }
  const sure = answer.probabilities[answer.digit];
  say(answer.digit, `${sure > 0.999 ? 'over 99.9%' : percent(sure)} sure`, false, answer.probabilities);
  paint($('seen'), answer.seen, () => [0, 0, 0, 0]);
  document.body.dataset.milliseconds = Math.round(performance.now() - start);
  await new Promise((done) => setTimeout(done, QUIET));
  if (mine !== newest) return;
  const why = await call('explain', body);
  if (mine !== newest || why.error) return;
  const strongest = Math.max(...why.attributions.map(Math.abs)) || 1;
  $('target').textContent = `Why ${why.target}`;
  paint($('why'), answer.seen, (i) => {
    const share = why.attributions[i] / strongest;
    return [...(share > 0 ? FOR : AGAINST), Math.sqrt(Math.abs(share))];
  });
}

async function call(path, body) {
  let response, answer;
  try {
    response = await fetch(path, body && {method: 'POST', body});
    answer = await response.json();
  } catch {
    answer = {error: {message: 'The page’s own server has ended: start it again (make draw).'}};
  }
  const down = !response || response.status === 503;
  if (down && path !== 'explain') lost(answer.error.message);
  return {...answer, down};
}

function lost(message) {
  $('down').textContent = message;
  $('down').hidden = false;
  waiting ??= setTimeout(async () => {
    waiting = null;
    if ((await call('health')).down) return;
    $('down').hidden = true;
    if (!empty) ask();
  }, RETRY);
}

function say(digit, reason, refused = false, probabilities = null) {
  $('digit').textContent = digit;
  $('reason').textContent = reason;
  $('reason').classList.toggle('refused', refused);
  [...$('bars').children].forEach((bar, i) => {
    const share = probabilities?.[i] ?? 0;
    bar.classList.toggle('best', i === digit);
    bar.querySelector('i').style.height = `${100 * share}%`;
    bar.querySelector('small').textContent = share >= 0.005 ? percent(share) : '';
  });
  $('target').textContent = 'Why';
  for (const id of ['seen', 'why']) $(id).getContext('2d').clearRect(0, 0, 28, 28);
}

const percent = (share) => `${Math.round(100 * share)}%`;

function paint(canvas, grey, over) {
  const image = new ImageData(28, 28);
  grey.forEach((value, i) => {
    const [r, g, b, alpha] = over(i);
    image.data.set([r, g, b].map((c) => alpha * c + (1 - alpha) * value), 4 * i);
    image.data[4 * i + 3] = 255;
  });
  canvas.getContext('2d').putImageData(image, 0, 0);
}

// -- Mouse, pen, finger -----------------------------------------------------------------------

function place(event) {
  const box = pad.getBoundingClientRect();
  return {x: (event.clientX - box.left) / box.width * SIDE,
          y: (event.clientY - box.top) / box.height * SIDE};
}
pad.addEventListener('pointerdown', (event) => {
  if (!event.isPrimary || event.button) return;
  pad.setPointerCapture(event.pointerId);
  $('pen').hidden = true;
  last = place(event);
  stroke(last, last);
});
pad.addEventListener('pointermove', (event) => {
  if (!last || !event.isPrimary) return;
  const all = event.getCoalescedEvents?.() ?? [];
  for (const point of (all.length ? all : [event]).map(place)) {
    stroke(last, point);
    last = point;
  }
});
for (const end of ['pointerup', 'pointercancel']) {
  pad.addEventListener(end, (event) => {
    if (!last || !event.isPrimary) return;
    last = null;
    ask();
  });
}

// -- Keyboard ---------------------------------------------------------------------------------

const ARROWS = {ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0]};
const held = new Set(), cursor = {x: SIDE / 2, y: SIDE / 4};
let down = false;

pad.addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key in ARROWS) {
    const before = {...cursor};
    held.add(event.key);
    for (const key of held) {
      cursor.x = Math.min(SIDE - 10, Math.max(10, cursor.x + STEP * ARROWS[key][0]));
      cursor.y = Math.min(SIDE - 10, Math.max(10, cursor.y + STEP * ARROWS[key][1]));
    }
    if (down) stroke(before, cursor);
  } else if (event.key === ' ') {
    down = !down;
    if (down) stroke(cursor, cursor); else ask();
  } else if (event.key === 'Delete' || event.key === 'Backspace') {
    down = false;
    clear();
  } else {
    return;
  }
  event.preventDefault();
  Object.assign($('pen').style, {left: `${100 * cursor.x / SIDE}%`, top: `${100 * cursor.y / SIDE}%`});
  $('pen').hidden = false;
  $('pen').classList.toggle('down', down);
});
pad.addEventListener('keyup', (event) => held.delete(event.key));
pad.addEventListener('blur', () => {
  held.clear();
  if (down) ask();
  down = false;
  $('pen').hidden = true;
});

// -- Files, clipboard, camera -----------------------------------------------------------------

$('clear').onclick = clear;
$('choose').onclick = () => $('file').click();
$('file').onchange = () => { if ($('file').files[0]) show($('file').files[0]); $('file').value = ''; };
addEventListener('paste', (event) => { if (event.clipboardData.files[0]) show(event.clipboardData.files[0]); });
addEventListener('dragover', (event) => { event.preventDefault(); $('frame').classList.add('over'); });
addEventListener('dragleave', () => $('frame').classList.remove('over'));
addEventListener('drop', (event) => {
  event.preventDefault();
  $('frame').classList.remove('over');
  if (event.dataTransfer.files[0]) show(event.dataTransfer.files[0]);
});
$('camera').onclick = async () => {
  try {
    const video = {facingMode: 'environment', width: {ideal: 1280}};
    $('video').srcObject = await navigator.mediaDevices.getUserMedia({video});
    $('lens').showModal();
  } catch (error) {
    say('–', `No camera (${error.message}): choose a photo instead.`, true);
  }
};
$('take').onclick = async () => {
  const shot = new OffscreenCanvas($('video').videoWidth, $('video').videoHeight);
  shot.getContext('2d').drawImage($('video'), 0, 0);
  $('lens').close();
  show(await shot.convertToBlob({type: 'image/jpeg', quality: 0.92}));
};
$('close').onclick = () => $('lens').close();
$('lens').onclose = () => $('video').srcObject.getTracks().forEach((track) => track.stop());

clear();
call('health');
