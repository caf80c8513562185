// Every change of the picture asks for its digit, then, when no other follows, for the reasons.
const $ = (id) => document.getElementById(id);
const pad = $('pad'), ink = pad.getContext('2d'), side = pad.width;
const QUIET = 250, RETRY = 1500;  // ms before asking why; between looks at a lost server
const FOR = [255, 145, 71], AGAINST = [86, 180, 233];
const ARROWS = {ArrowUp: [0, -7], ArrowDown: [0, 7], ArrowLeft: [-7, 0], ArrowRight: [7, 0]};

let picture = null;  // on the pad: nothing, strokes (then it is the pad itself), or a file
let asked = 0;       // questions so far; only the newest one's answer is shown
let last = null;     // where the mouse, pen or finger that is down was last
let retry = null;    // the timer of the next look at a lost server
const cursor = {}, held = new Set();  // the keyboard's pen, and the arrows that are down

// -- The picture
function put(what) {
  picture = what;
  ink.fillStyle = '#fff';
  ink.fillRect(0, 0, side, side);
  pad.classList.toggle('photo', what instanceof Blob);
  $('hint').textContent = what ? '' : 'Draw here';
  if (what !== pad) Object.assign(cursor, {x: side / 2, y: side / 4, down: false});
  $('pen').hidden = true;
}

function clear() {
  asked++;
  put(null);
  say('–', 'The answer comes when you lift the pen.');
}

function stroke(from, to) {
  if (picture !== pad) put(pad);
  Object.assign(ink, {lineWidth: 20, lineCap: 'round', strokeStyle: '#000'});
  ink.beginPath();
  ink.moveTo(from.x, from.y);
  ink.lineTo(to.x, to.y);
  ink.stroke();
}

async function take([file]) {
  if (!file) return;
  put(file);
  say('–', 'Looking at it …');
  ask();
  // Not every format that the server reads is one that the browser shows, and some are none.
  const image = await createImageBitmap(file).catch(() => null);
  if (picture !== file) return;
  if (!image) return void ($('hint').textContent = file.name);
  const scale = side / Math.max(image.width, image.height);
  const [width, height] = [image.width * scale, image.height * scale];
  ink.drawImage(image, (side - width) / 2, (side - height) / 2, width, height);
}

// -- The answer
async function ask() {
  const mine = ++asked, start = performance.now();
  const body = picture === pad ? await new Promise((done) => pad.toBlob(done)) : picture;
  const {digit, probabilities, seen, error} = await call('predict', body);
  if (mine !== asked) return;
  if (error) return say('–', error.message, 'refused');
  const took = Math.round(performance.now() - start);
  say(digit, `${percent(probabilities[digit])} sure, in ${took} ms`, '', probabilities);
  paint('seen', seen);
  await new Promise((done) => setTimeout(done, QUIET));
  if (mine !== asked) return;
  const {target, attributions} = await call('explain', body);
  if (mine !== asked || !attributions) return;
  $('target').textContent = `Why ${target}`;
  paint('why', seen, attributions);
}

async function call(path, body) {
  const answer = await fetch(path, body && {method: 'POST', body})
    .then(async (response) => ({...await response.json(), down: response.status === 503}))
    .catch(() => ({error: {message: 'The page’s own server has ended: make draw'}, down: true}));
  if (!answer.down) return answer;
  if (path !== 'explain') wait(answer.error.message);
  return {error: {message: 'The answer comes when the server is back.'}};
}

function wait(message) {
  $('down').textContent = message;
  $('down').hidden = false;
  clearTimeout(retry);
  retry = setTimeout(async () => {
    if ((await call('health')).error) return;
    $('down').hidden = true;
    if (picture) ask();
  }, RETRY);
}

const percent = (share) => share > 0.999 ? '>99.9%' : `${Math.round(100 * share)}%`;

function say(digit, reason, tone = '', probabilities = Array(10).fill(0)) {
  $('digit').textContent = digit;
  $('reason').textContent = reason;
  $('reason').className = tone;
  $('bars').replaceChildren(...probabilities.map((share, i) => {
    const row = document.createElement('label'), meter = document.createElement('meter');
    meter.value = share;
    row.className = i === digit ? 'best' : '';
    row.append(i, meter, share >= 0.005 ? percent(share) : '');
    return row;
  }));
  $('target').textContent = 'Why';
  for (const id of ['seen', 'why']) $(id).getContext('2d').clearRect(0, 0, 28, 28);
}

function paint(id, grey, reasons = []) {
  const image = new ImageData(28, 28), strongest = Math.max(1e-9, ...reasons.map(Math.abs));
  grey.forEach((value, i) => {
    const colour = reasons[i] > 0 ? FOR : AGAINST;
    const share = Math.sqrt(Math.abs(reasons[i] ?? 0) / strongest);
    image.data.set([...colour.map((c) => share * c + (1 - share) * value), 255], 4 * i);
  });
  $(id).getContext('2d').putImageData(image, 0, 0);
}

// -- Mouse, pen, finger
function place(event) {
  const box = pad.getBoundingClientRect(), scale = side / box.width;
  return {x: (event.clientX - box.left) * scale, y: (event.clientY - box.top) * scale};
}
pad.onpointerdown = (event) => {
  if (!event.isPrimary || event.button) return;
  pad.setPointerCapture(event.pointerId);
  $('pen').hidden = true;
  last = place(event);
  stroke(last, last);
};
pad.onpointermove = (event) => {
  if (!last || !event.isPrimary) return;
  for (const point of [...(event.getCoalescedEvents?.() ?? []), event].map(place)) {
    stroke(last, point);
    last = point;
  }
};
pad.onlostpointercapture = (event) => {
  if (!last || !event.isPrimary) return;
  last = null;
  ask();
};

// -- Keyboard
pad.onkeydown = (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key in ARROWS) {
    const before = {...cursor}, inside = (at) => Math.min(side - 10, Math.max(10, at));
    for (const key of held.add(event.key)) {
      cursor.x = inside(cursor.x + ARROWS[key][0]);
      cursor.y = inside(cursor.y + ARROWS[key][1]);
    }
    if (cursor.down) stroke(before, cursor);
  } else if (event.key === ' ') {
    cursor.down = !cursor.down;
    if (cursor.down) stroke(cursor, cursor); else ask();
  } else if (event.key === 'Delete' || event.key === 'Backspace') {
    clear();
  } else {
    return;
  }
  event.preventDefault();
  $('pen').style.inset = `${100 * cursor.y / side}% auto auto ${100 * cursor.x / side}%`;
  $('pen').className = cursor.down ? 'down' : '';
  $('pen').hidden = false;
};
pad.onkeyup = (event) => held.delete(event.key);
pad.onblur = () => {
  held.clear();
  if (cursor.down) ask();
  cursor.down = false;
  $('pen').hidden = true;
};

// -- Files, clipboard, camera
$('clear').onclick = clear;
$('choose').onclick = () => $('file').click();
$('file').onchange = () => { take($('file').files); $('file').value = ''; };
addEventListener('paste', (event) => take(event.clipboardData.files));
for (const type of ['dragover', 'dragleave', 'drop']) {
  addEventListener(type, (event) => {
    event.preventDefault();
    $('frame').className = type === 'dragover' ? 'over' : '';
    if (type === 'drop') take(event.dataTransfer.files);
  });
}
$('camera').onclick = async () => {
  try {
    const video = {facingMode: 'environment', width: {ideal: 1280}};
    $('video').srcObject = await navigator.mediaDevices.getUserMedia({video});
    $('lens').returnValue = '';  // Esc would keep the last one
    $('lens').showModal();
  } catch (error) {
    say('–', `No camera (${error.message}): choose a photo instead.`, 'refused');
  }
};
$('lens').onclose = async () => {
  const video = $('video'), shot = new OffscreenCanvas(video.videoWidth, video.videoHeight);
  shot.getContext('2d').drawImage(video, 0, 0);
  for (const track of video.srcObject.getTracks()) track.stop();
  if ($('lens').returnValue && shot.width) take([await shot.convertToBlob({type: 'image/jpeg'})]);
};

clear();
call('health');
