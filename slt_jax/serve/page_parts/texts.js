// The page's words, in the browser's language where there are any.
const WORDS = {
  en: {
    title: "Signing to text", signer: "Signer", empty: "Sign to the camera, and read the text here.", lag: "Lag",
    rate: "Pictures/s", dropped: "Dropped", camera: "Camera", file: "Video file", sample: "Drawn signer", stop: "Stop",
    draw: "Show what is seen", token: "This service asks for a token", unlock: "Go on", text: "Text", copy: "Copy",
    copied: "Copied", save: "Save as SRT", clear: "Clear", languages: "Language of the text",
    nothing: "What is signed appears here. Dark words are settled; grey ones may still change.",
    privacy: "Your pictures go to this service and nowhere else. It keeps them in memory while it reads them, writes "
      + "none to a disk, and forgets them and the text when you leave.",
    privacyHere: "Your pictures never leave this device: the model runs in this browser, and no picture is sent or "
      + "stored anywhere.",
    noModel: "The model cannot be loaded.", noDetector: "MediaPipe's models are missing in this folder:",
    wrong: "The text is a machine's and may be wrong: don't rely on it where it matters.", api: "For programs: the API",
    starting: "Getting ready", ready: "Ready", live: "Live", ending: "Last words", waking: "The model is loading",
    noCamera: "The camera cannot be used. Allow it in the browser, or choose a video file.",
    insecure: "Browsers give the camera only to https:// or to this machine itself. A video file works.",
    badVideo: "The browser cannot play this video. Choose another file.", gone: "The connection to the service is lost.",
    unreachable: "The service does not answer.", badToken: "This token is not the right one.",
    closed: {
      1001: "The service stops. Try again in a minute.", 1013: "All places are taken, or the model is loading. Try again soon.",
      3000: "This token is not the right one.", 3008: "The session was too long or idle, so it ended.",
      4000: "Reading signs has failed in this browser:",
    },
  },
  es: {
    title: "De señas a texto", signer: "Señante", empty: "Haga señas frente a la cámara y lea el texto aquí.", lag: "Retraso",
    rate: "Imágenes/s", dropped: "Perdidas", camera: "Cámara", file: "Archivo de video", sample: "Señante dibujado",
    stop: "Detener", draw: "Mostrar lo que se ve", token: "Este servicio pide una clave", unlock: "Seguir", text: "Texto",
    copy: "Copiar", copied: "Copiado", save: "Guardar SRT", clear: "Borrar", languages: "Idioma del texto",
    nothing: "Lo que se diga en señas aparece aquí. Las palabras oscuras ya están fijas; las grises aún pueden cambiar.",
    privacy: "Sus imágenes van a este servicio y a ningún otro lugar. Las guarda en memoria mientras las lee, no escribe "
      + "ninguna en disco y las olvida, igual que el texto, cuando usted se va.",
    privacyHere: "Sus imágenes nunca salen de este dispositivo: el modelo corre en este navegador, y ninguna imagen se "
      + "envía ni se guarda en ningún lugar.",
    noModel: "No se puede cargar el modelo.", noDetector: "Faltan los modelos de MediaPipe en esta carpeta:",
    wrong: "El texto lo escribe una máquina y puede tener errores: no confíe en él para lo importante.",
    api: "Para programas: la API", starting: "Preparando", ready: "Listo", live: "En vivo", ending: "Últimas palabras",
    waking: "El modelo se está cargando",
    noCamera: "No se puede usar la cámara. Permítala en el navegador o elija un archivo de video.",
    insecure: "Los navegadores solo dan la cámara a https:// o a esta misma máquina. Un archivo de video sí funciona.",
    badVideo: "El navegador no puede reproducir este video. Elija otro archivo.",
    gone: "Se perdió la conexión con el servicio.", unreachable: "El servicio no responde.",
    badToken: "Esa clave no es la correcta.",
    closed: {
      1001: "El servicio se detiene. Intente de nuevo en un minuto.",
      1013: "No quedan lugares o el modelo se está cargando. Intente de nuevo pronto.",
      3000: "Esa clave no es la correcta.", 3008: "La sesión terminó por larga o por inactiva.",
      4000: "Falló la lectura de las señas en este navegador:",
    },
  },
};

const wished = (navigator.languages ?? [navigator.language]).map((name) => name.slice(0, 2).toLowerCase());
export const LANGUAGE = wished.find((name) => name in WORDS) ?? "en";
export const words = WORDS[LANGUAGE];

export function translate(root) {
  root.lang = LANGUAGE;
  for (const element of root.querySelectorAll("[data-text]")) element.textContent = words[element.dataset.text];
  document.title = words.title;
}

export function nameOf(code) {
  const short = code.replaceAll("_", " ").trim().split(" ")[0];
  try {
    return new Intl.DisplayNames([LANGUAGE], { type: "language" }).of(short) ?? code;
  } catch {
    return code;
  }
}
