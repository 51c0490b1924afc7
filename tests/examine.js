// Faults of a page as it is seen now: text that is pale (contrast below 4.5) or tiny (below 11 px), labels that
// overlap or are cut, and text that spills out of its box.
() => {
  const seen = (element) => {
    const box = element.getBoundingClientRect();
    return box.width > 0 && box.height > 0 && getComputedStyle(element).visibility !== 'hidden';
  };
  const words = (element) => [...element.childNodes]
    .filter((node) => node.nodeType === 3).map((node) => node.textContent.trim()).join(' ').trim();
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (top, below) => [0, 1, 2].map((i) => top[3] * top[i] + (1 - top[3]) * below[i]).concat(1);
  const paper = (element) => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) layers.unshift(rgba(getComputedStyle(e).backgroundColor));
    return layers.reduce((below, top) => over(top, below), [255, 255, 255, 1]);
  };
  const light = (colour) => {
    const [r, g, b] = colour.map((c) => c / 255).map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const faults = {pale: [], tiny: [], overlapping: [], cut: [], spilling: []};
  for (const element of document.body.querySelectorAll('*')) {
    const text = words(element);
    if (!text || !seen(element)) continue;
    const style = getComputedStyle(element), drawn = element.ownerSVGElement;
    const below = paper(element), ink = over(rgba(drawn ? style.fill : style.color), below);
    const [low, high] = [light(ink), light(below)].sort((a, b) => a - b);
    const contrast = (high + 0.05) / (low + 0.05);
    if (contrast < 4.5) faults.pale.push(`${text.slice(0, 40)}: ${contrast.toFixed(2)}`);
    const scale = drawn ? Math.hypot(element.getScreenCTM().a, element.getScreenCTM().b) : 1;
    const size = parseFloat(style.fontSize) * scale;
    if (size < 10.99) faults.tiny.push(`${text.slice(0, 40)}: ${size.toFixed(1)} px`);
    if (!drawn && element.scrollWidth > element.clientWidth + 1 && style.display === 'block' && style.overflowX === 'visible')
      faults.spilling.push(text.slice(0, 60));
  }
  for (const figure of document.querySelectorAll('svg')) {
    const labels = [...figure.querySelectorAll('text')].filter((label) => seen(label) && label.ownerSVGElement === figure);
    const boxes = labels.map((label) => label.getBoundingClientRect()), all = figure.getBoundingClientRect();
    boxes.forEach((a, i) => {
      if (figure.classList.contains('drawn') && (a.left < all.left - 2 || a.right > all.right + 2 || a.top < all.top - 2 || a.bottom > all.bottom + 2))
        faults.cut.push(labels[i].textContent);
      boxes.slice(i + 1).forEach((b, j) => {
        const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
        const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
        if (wide > 1 && high > 2) faults.overlapping.push(`${labels[i].textContent} / ${labels[i + j + 1].textContent}`);
      });
    });
  }
  return faults;
}
